//! Operators: names, parameters, and how far back they look.

use std::sync::Arc;

use super::kernels::recursive::{rsi_settled_rows, settled_rows};

/// Maximum window, in rows.
pub const MAX_WINDOW: usize = 1 << 20;

/// A float64 that is compared by its bits, so that it can be part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bits(u64);

impl Bits {
    /// Returns the bits of `value`.
    #[must_use]
    pub fn new(value: f64) -> Self {
        Self(value.to_bits())
    }

    /// The number itself.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// A parameter of an operator, as the caller passes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// A number.
    Number(f64),
    /// The name of a column.
    Text(String),
}

/// Defines an enum of operators that differ only in their name, with `named` and `name`.
macro_rules! names {
    ($(#[$doc:meta])* $kind:ident { $($(#[$each:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $kind {
            $($(#[$each])* $variant,)*
        }

        impl $kind {
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

names! {
    /// Functions of one value in the same row.
    Unary {
        /// Natural logarithm.
        Log = "log",
        /// `log(1 + x)`.
        Log1p = "log1p",
        /// `e ** x`.
        Exp = "exp",
        /// Square root.
        Sqrt = "sqrt",
        /// Absolute value.
        Abs = "abs",
        /// -1, 0 or 1.
        Sign = "sign",
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// Sine of radians.
        Sin = "sin",
        /// Cosine of radians.
        Cos = "cos",
        /// `-x`.
        Neg = "neg",
    }
}

names! {
    /// Functions of two values in the same row.
    Binary {
        /// `x + y`.
        Add = "add",
        /// `x - y`.
        Sub = "sub",
        /// `x * y`.
        Mul = "mul",
        /// `x / y`.
        Div = "div",
        /// `x ** y`.
        Pow = "pow",
        /// 1 if `x < y`, else 0.
        Lt = "lt",
        /// 1 if `x <= y`, else 0.
        Le = "le",
        /// 1 if `x > y`, else 0.
        Gt = "gt",
        /// 1 if `x >= y`, else 0.
        Ge = "ge",
        /// 1 if `x == y`, else 0.
        Eq = "eq",
        /// 1 if `x != y`, else 0.
        Ne = "ne",
        /// The smaller one.
        Minimum = "minimum",
        /// The larger one.
        Maximum = "maximum",
    }
}

names! {
    /// Functions of the last values of one series.
    Rolling {
        /// Sum.
        Sum = "sum",
        /// Mean.
        Mean = "mean",
        /// Smallest value.
        Min = "min",
        /// Largest value.
        Max = "max",
        /// Median.
        Median = "median",
        /// Average rank of the last value, divided by the window.
        Rank = "rank",
        /// Sample standard deviation.
        Std = "std",
        /// Sample variance.
        Var = "var",
        /// Position of the largest value.
        Argmax = "argmax",
        /// Position of the smallest value.
        Argmin = "argmin",
        /// Number of values that are not 0.
        Count = "count",
        /// Least-squares slope per row.
        Slope = "slope",
        /// Coefficient of determination of the least-squares line.
        Rsquare = "rsquare",
        /// Last value minus the least-squares line.
        Resid = "resid",
        /// Exponential average with `alpha = 2 / (window + 1)`.
        Ema = "ema",
        /// Exponential average with `alpha = 1 / window`.
        Wilder = "wilder",
        /// Simple-mean relative strength index.
        RsiSimple = "rsi_simple",
        /// Wilder's relative strength index.
        RsiWilder = "rsi_wilder",
    }
}

names! {
    /// Functions of the last values of two series.
    Pair {
        /// Sample correlation.
        Corr = "corr",
        /// Sample covariance.
        Cov = "cov",
    }
}

names! {
    /// Functions of the time of a row.
    Clock {
        /// Hour of the day, 0 to 23.
        Hour = "hour",
        /// Day of the week; Monday is 0.
        Weekday = "weekday",
        /// Day of the year, from 1.
        DayOfYear = "day_of_year",
    }
}

/// An operator with its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// A column of the frame.
    Column(Arc<str>),
    /// A constant.
    Number(Bits),
    /// See [`Unary`].
    Unary(Unary),
    /// See [`Binary`].
    Binary(Binary),
    /// The second argument where the first is not 0, else the third.
    Where,
    /// The value limited to a range.
    Clip(Bits, Bits),
    /// A number in place of null.
    Fill(Bits),
    /// The value some rows earlier.
    Lag(usize),
    /// See [`Rolling`]; with the window.
    Rolling(Rolling, usize),
    /// A quantile of the last values, with linear interpolation.
    Quantile(usize, Bits),
    /// See [`Pair`]; with the window.
    Pair(Pair, usize),
    /// See [`Clock`]; with milliseconds that are added to the time.
    Clock(Clock, i64),
}

impl Op {
    /// Returns the operator `name` with `params`.
    ///
    /// # Errors
    /// A description of what is wrong, without the name.
    pub fn new(name: &str, params: &[Param]) -> std::result::Result<Self, String> {
        let mut params = Params { rest: params };
        let op = if let Some(op) = Unary::named(name) {
            Self::Unary(op)
        } else if let Some(op) = Binary::named(name) {
            Self::Binary(op)
        } else if let Some(op) = Rolling::named(name) {
            let shortest = match op {
                Rolling::Std
                | Rolling::Var
                | Rolling::Slope
                | Rolling::Rsquare
                | Rolling::Resid => 2,
                _ => 1,
            };
            Self::Rolling(op, params.window(shortest)?)
        } else if let Some(op) = Pair::named(name) {
            Self::Pair(op, params.window(2)?)
        } else if let Some(op) = Clock::named(name) {
            // Every integer up to 2^53 milliseconds is a float64; it is 285,000 years.
            let offset = params.number(
                "offset",
                |v| v.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&v),
                "an integer from 0 to 2^53",
            )?;
            Self::Clock(op, offset as i64)
        } else {
            match name {
                "column" => Self::Column(params.text()?.into()),
                "number" => Self::Number(params.finite("value")?),
                "where" => Self::Where,
                "clip" => {
                    let (low, high) = (params.finite("lowest")?, params.finite("highest")?);
                    if low.get() > high.get() {
                        return Err(format!(
                            "the bounds are {} and {}, expected the lower one first",
                            low.get(),
                            high.get()
                        ));
                    }
                    Self::Clip(low, high)
                }
                "fill" => Self::Fill(params.finite("value")?),
                "lag" => Self::Lag(params.window(0)?),
                "quantile" => {
                    let window = params.window(1)?;
                    let within = |q: f64| (0.0..=1.0).contains(&q);
                    let q = params.number("quantile", within, "a number from 0 to 1")?;
                    Self::Quantile(window, Bits::new(q))
                }
                _ => return Err("there is no such operator".to_owned()),
            }
        };
        match params.rest.len() {
            0 => Ok(op),
            more => Err(format!("it has {more} parameters too many")),
        }
    }

    /// The name that [`Self::new`] takes.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Column(_) => "column",
            Self::Number(_) => "number",
            Self::Unary(op) => op.name(),
            Self::Binary(op) => op.name(),
            Self::Where => "where",
            Self::Clip(..) => "clip",
            Self::Fill(_) => "fill",
            Self::Lag(_) => "lag",
            Self::Rolling(op, _) => op.name(),
            Self::Quantile(..) => "quantile",
            Self::Pair(op, _) => op.name(),
            Self::Clock(op, _) => op.name(),
        }
    }

    /// The parameters that [`Self::new`] takes.
    #[must_use]
    pub fn params(&self) -> Vec<Param> {
        let number = |value: &Bits| Param::Number(value.get());
        let count = |value: &usize| Param::Number(*value as f64);
        match self {
            Self::Column(name) => vec![Param::Text(name.to_string())],
            Self::Number(value) | Self::Fill(value) => vec![number(value)],
            Self::Clip(low, high) => vec![number(low), number(high)],
            Self::Unary(_) | Self::Binary(_) | Self::Where => Vec::new(),
            Self::Lag(rows) | Self::Rolling(_, rows) | Self::Pair(_, rows) => vec![count(rows)],
            Self::Quantile(window, q) => vec![count(window), number(q)],
            Self::Clock(_, offset) => vec![Param::Number(*offset as f64)],
        }
    }

    /// Whether all parameters are integers.
    #[must_use]
    pub fn counts(&self) -> bool {
        !matches!(
            self,
            Self::Number(_) | Self::Fill(_) | Self::Clip(..) | Self::Quantile(..)
        )
    }

    /// Number of arguments.
    #[must_use]
    pub fn arity(&self) -> usize {
        match self {
            Self::Column(_) | Self::Number(_) | Self::Clock(..) => 0,
            Self::Unary(_)
            | Self::Clip(..)
            | Self::Fill(_)
            | Self::Lag(_)
            | Self::Rolling(..)
            | Self::Quantile(..) => 1,
            Self::Binary(_) | Self::Pair(..) => 2,
            Self::Where => 3,
        }
    }

    /// Number of earlier rows of its arguments that a value depends on.
    #[must_use]
    pub fn reach(&self) -> usize {
        match *self {
            Self::Lag(rows) => rows,
            Self::Rolling(op, window) => match op {
                Rolling::RsiSimple => window,
                Rolling::Ema => settled_rows(ema_alpha(window)),
                Rolling::Wilder => settled_rows(wilder_alpha(window)),
                Rolling::RsiWilder => rsi_settled_rows(window),
                _ => window - 1,
            },
            Self::Quantile(window, _) | Self::Pair(_, window) => window - 1,
            _ => 0,
        }
    }

    /// Number of rows without a value, after those of its arguments.
    #[must_use]
    pub fn warmup(&self) -> usize {
        match self {
            // The first value counts as no change.
            Self::Rolling(Rolling::RsiSimple, window) => window - 1,
            _ => self.reach(),
        }
    }
}

/// The alpha of [`Rolling::Ema`].
#[must_use]
pub fn ema_alpha(window: usize) -> f64 {
    2.0 / (window as f64 + 1.0)
}

/// The alpha of [`Rolling::Wilder`].
#[must_use]
pub fn wilder_alpha(window: usize) -> f64 {
    1.0 / window as f64
}

/// The parameters that have not been read yet.
struct Params<'a> {
    rest: &'a [Param],
}

impl Params<'_> {
    fn next(&mut self, what: &str) -> std::result::Result<&Param, String> {
        let (first, rest) = self
            .rest
            .split_first()
            .ok_or_else(|| format!("the parameter {what} is missing"))?;
        self.rest = rest;
        Ok(first)
    }

    fn number(
        &mut self,
        what: &str,
        accepted: impl Fn(f64) -> bool,
        expected: &str,
    ) -> std::result::Result<f64, String> {
        match self.next(what)? {
            Param::Number(value) if accepted(*value) => Ok(*value),
            Param::Number(value) => Err(format!("the {what} is {value}, expected {expected}")),
            Param::Text(text) => Err(format!("the {what} is {text:?}, expected {expected}")),
        }
    }

    fn finite(&mut self, what: &str) -> std::result::Result<Bits, String> {
        self.number(what, f64::is_finite, "a finite number")
            .map(Bits::new)
    }

    fn window(&mut self, shortest: usize) -> std::result::Result<usize, String> {
        let range = shortest as f64..=MAX_WINDOW as f64;
        let accepted = |value: f64| value.fract() == 0.0 && range.contains(&value);
        let expected = format!("an integer from {shortest} to {MAX_WINDOW}");
        self.number("window", accepted, &expected)
            .map(|value| value as usize)
    }

    fn text(&mut self) -> std::result::Result<&str, String> {
        match self.next("name")? {
            Param::Text(text) => Ok(text),
            Param::Number(value) => Err(format!("the name is {value}, expected a string")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_come_back_from_their_name_and_parameters() {
        let numbers = |values: &[f64]| values.iter().map(|v| Param::Number(*v)).collect::<Vec<_>>();
        for (name, params) in [
            ("add", numbers(&[])),
            ("where", numbers(&[])),
            ("number", numbers(&[-0.0])),
            ("clip", numbers(&[-1.0, 1.0])),
            ("lag", numbers(&[0.0])),
            ("mean", numbers(&[30.0])),
            ("corr", numbers(&[2.0])),
            ("quantile", numbers(&[5.0, 0.8])),
            ("hour", numbers(&[3_600_000.0])),
            ("column", vec![Param::Text("close".to_owned())]),
        ] {
            let op = Op::new(name, &params).unwrap();
            assert_eq!((op.name(), op.params()), (name, params));
        }
    }

    #[test]
    fn refuses_what_is_out_of_range() {
        for (name, params, message) in [
            ("means", vec![], "there is no such operator"),
            (
                "mean",
                vec![0.0],
                "the window is 0, expected an integer from 1 to 1048576",
            ),
            (
                "mean",
                vec![1.5],
                "the window is 1.5, expected an integer from 1 to 1048576",
            ),
            (
                "std",
                vec![1.0],
                "the window is 1, expected an integer from 2 to 1048576",
            ),
            (
                "mean",
                vec![f64::NAN],
                "the window is NaN, expected an integer from 1 to 1048576",
            ),
            ("mean", vec![1e300], "expected an integer from 1 to 1048576"),
            (
                "lag",
                vec![-1.0],
                "the window is -1, expected an integer from 0 to 1048576",
            ),
            ("mean", vec![], "the parameter window is missing"),
            ("mean", vec![3.0, 4.0], "it has 1 parameters too many"),
            (
                "number",
                vec![f64::INFINITY],
                "the value is inf, expected a finite number",
            ),
            (
                "clip",
                vec![1.0, 0.0],
                "the bounds are 1 and 0, expected the lower one first",
            ),
            (
                "quantile",
                vec![5.0, 1.01],
                "the quantile is 1.01, expected a number from 0 to 1",
            ),
            ("column", vec![1.0], "the name is 1, expected a string"),
        ] {
            let params: Vec<Param> = params.into_iter().map(Param::Number).collect();
            let error = Op::new(name, &params).unwrap_err();
            assert!(error.ends_with(message), "{error}");
        }
    }
}
