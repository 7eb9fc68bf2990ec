//! Functions of values in the same row. NaN is null; a result that is not finite is NaN.

#![allow(clippy::float_cmp, reason = "the operators == and != are exact")]

use crate::expr::op::{Binary, Unary};

/// NaN unless the value is finite.
#[inline(always)]
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { f64::NAN }
}

/// `value`, or NaN if `missing`.
#[inline(always)]
fn unless(missing: bool, value: f64) -> f64 {
    if missing { f64::NAN } else { value }
}

#[inline(always)]
fn each(x: &[f64], out: &mut [f64], function: impl Fn(f64) -> f64) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = function(*x);
    }
}

#[inline(always)]
fn both(x: &[f64], y: &[f64], out: &mut [f64], function: impl Fn(f64, f64) -> f64) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = function(*x, *y);
    }
}

/// Writes 1 where `holds`, else 0.
#[inline(always)]
fn compare(x: &[f64], y: &[f64], out: &mut [f64], holds: impl Fn(f64, f64) -> bool) {
    both(x, y, out, |x, y| {
        let result = if holds(x, y) { 1.0 } else { 0.0 };
        unless(x.is_nan() | y.is_nan(), result)
    });
}

super::compiled! {
    /// `out[i] = op(x[i])`
    fn unary(op: Unary, x: &[f64], out: &mut [f64]) {
        match op {
            Unary::Log => each(x, out, |x| finite(x.ln())),
            Unary::Log1p => each(x, out, |x| finite(x.ln_1p())),
            Unary::Exp => each(x, out, |x| finite(x.exp())),
            Unary::Sqrt => each(x, out, f64::sqrt),
            Unary::Abs => each(x, out, f64::abs),
            Unary::Sign => each(x, out, |x| {
                let sign = if x > 0.0 { 1.0 } else { -1.0 };
                let sign = if x == 0.0 { 0.0 } else { sign };
                unless(x.is_nan(), sign)
            }),
            Unary::Tanh => each(x, out, f64::tanh),
            Unary::Sin => each(x, out, f64::sin),
            Unary::Cos => each(x, out, f64::cos),
            Unary::Neg => each(x, out, |x| -x),
        }
    }

    /// `out[i] = op(x[i], y[i])`
    fn binary(op: Binary, x: &[f64], y: &[f64], out: &mut [f64]) {
        match op {
            Binary::Add => both(x, y, out, |x, y| finite(x + y)),
            Binary::Sub => both(x, y, out, |x, y| finite(x - y)),
            Binary::Mul => both(x, y, out, |x, y| finite(x * y)),
            Binary::Div => both(x, y, out, |x, y| finite(x / y)),
            // NaN to the power of 0 would be 1, and so would be 1 to the power of NaN.
            Binary::Pow => both(x, y, out, |x, y| unless(x.is_nan() | y.is_nan(), finite(x.powf(y)))),
            Binary::Lt => compare(x, y, out, |x, y| x < y),
            Binary::Le => compare(x, y, out, |x, y| x <= y),
            Binary::Gt => compare(x, y, out, |x, y| x > y),
            Binary::Ge => compare(x, y, out, |x, y| x >= y),
            Binary::Eq => compare(x, y, out, |x, y| x == y),
            Binary::Ne => compare(x, y, out, |x, y| x != y),
            Binary::Minimum => both(x, y, out, |x, y| {
                unless(x.is_nan() | y.is_nan(), if y < x { y } else { x })
            }),
            Binary::Maximum => both(x, y, out, |x, y| {
                unless(x.is_nan() | y.is_nan(), if y > x { y } else { x })
            }),
        }
    }

    /// `out[i]` is `x[i]` where `condition[i]` is not 0, else `y[i]`.
    fn choose(condition: &[f64], x: &[f64], y: &[f64], out: &mut [f64]) {
        for (((out, condition), x), y) in out.iter_mut().zip(condition).zip(x).zip(y) {
            let chosen = if *condition == 0.0 { *y } else { *x };
            *out = unless(condition.is_nan(), chosen);
        }
    }

    /// `out[i]` is `x[i]`, at least `low` and at most `high`.
    fn clip(x: &[f64], low: f64, high: f64, out: &mut [f64]) {
        each(x, out, |x| {
            let x = if x < low { low } else { x };
            if x > high { high } else { x }
        });
    }

    /// `out[i]` is `x[i]`, or `value` where that is NaN.
    fn fill(x: &[f64], value: f64, out: &mut [f64]) {
        each(x, out, |x| if x.is_nan() { value } else { x });
    }

    /// Replaces values that are not finite by NaN.
    fn clear(out: &mut [f64]) {
        for value in out {
            *value = finite(*value);
        }
    }
}
