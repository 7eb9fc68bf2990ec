//! Expressions, and the graph of several expressions in which equal parts share one node.

use std::collections::HashMap;

use super::elementwise;
use super::op::{Binary, Bits, Op, Param, Rolling};
use crate::{Error, Result};

/// Maximum number of nodes in an expression.
pub const MAX_NODES: usize = 10_000;

/// An expression: nodes of which each has an operator and the indices of earlier nodes that are its
/// arguments. The last one is the root.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    nodes: Vec<(Op, Vec<usize>)>,
    columns: Vec<String>,
    lookback: usize,
    warmup: usize,
}

impl Expression {
    /// Returns the expression of `nodes`: the name of an operator, arguments and parameters of each.
    ///
    /// # Errors
    /// [`Error::InvalidNode`] for an unknown operator, the wrong number of arguments, an argument
    /// that is not an earlier node, or a parameter that is out of range;
    /// [`Error::InvalidArgument`] for no nodes or more than [`MAX_NODES`].
    pub fn new(nodes: &[(String, Vec<usize>, Vec<Param>)]) -> Result<Self> {
        if !(1..=MAX_NODES).contains(&nodes.len()) {
            return Err(Error::InvalidArgument {
                name: "nodes",
                value: format!("a list of {}", nodes.len()),
                expected: format!("1 to {MAX_NODES} nodes"),
            });
        }
        let mut typed = Vec::with_capacity(nodes.len());
        for (node, (name, args, params)) in nodes.iter().enumerate() {
            let invalid = |reason| Error::InvalidNode {
                node,
                op: name.chars().take(40).collect(),
                reason,
            };
            let op = Op::new(name, params).map_err(invalid)?;
            if args.len() != op.arity() {
                let (found, expected) = (args.len(), op.arity());
                let reason = format!("it has {found} arguments, expected {expected}");
                return Err(invalid(reason));
            }
            if let Some(arg) = args.iter().find(|arg| **arg >= node) {
                let reason = format!("its argument is node {arg}, expected an earlier one");
                return Err(invalid(reason));
            }
            typed.push((op, args.clone()));
        }
        let mut expression = Self {
            nodes: typed,
            columns: Vec::new(),
            lookback: 0,
            warmup: 0,
        };
        let mut graph = Graph::default();
        let root = graph.add(&expression);
        expression.lookback = graph.lookback(root);
        expression.warmup = graph.warmup(root);
        expression.columns = graph.columns;
        Ok(expression)
    }

    /// Returns the expression of a column.
    #[must_use]
    pub fn column(name: &str) -> Self {
        Self {
            nodes: vec![(Op::Column(name.into()), Vec::new())],
            columns: vec![name.to_owned()],
            lookback: 0,
            warmup: 0,
        }
    }

    /// The nodes; the last one is the root.
    #[must_use]
    pub fn nodes(&self) -> &[(Op, Vec<usize>)] {
        &self.nodes
    }

    /// The columns that it reads, in the order of their first use.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Number of earlier rows that a value depends on.
    #[must_use]
    pub fn lookback(&self) -> usize {
        self.lookback
    }

    /// Number of rows at the start of a frame that have no value.
    #[must_use]
    pub fn warmup(&self) -> usize {
        self.warmup
    }
}

/// The values of a node some rows earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Value {
    pub node: usize,
    /// Number of rows. A lag shifts values, so nothing is computed for it.
    pub shift: usize,
}

/// A part of one or more expressions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub op: Op,
    pub args: Vec<Value>,
    pub lookback: usize,
    pub warmup: usize,
}

/// The nodes of several expressions. Equal parts are one node; arguments come before what uses them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Graph {
    pub nodes: Vec<Node>,
    /// The columns that are read, in the order of their first use.
    pub columns: Vec<String>,
    known: HashMap<(Op, Vec<Value>), usize>,
}

impl Graph {
    /// Adds an expression and returns its root.
    pub fn add(&mut self, expression: &Expression) -> Value {
        let nodes = expression.nodes();
        let mut used = vec![false; nodes.len()];
        used[nodes.len() - 1] = true;
        for (node, (_, args)) in nodes.iter().enumerate().rev() {
            if used[node] {
                for arg in args {
                    used[*arg] = true;
                }
            }
        }
        let mut values: Vec<Value> = Vec::with_capacity(nodes.len());
        for ((op, args), used) in nodes.iter().zip(used) {
            values.push(if used {
                let args = args.iter().map(|arg| values[*arg]).collect();
                self.value(op.clone(), args)
            } else {
                Value { node: 0, shift: 0 }
            });
        }
        values[nodes.len() - 1]
    }

    /// Returns the value of an operator, adding a node unless there is an equal one.
    fn value(&mut self, op: Op, args: Vec<Value>) -> Value {
        if let Op::Lag(rows) = op {
            let Value { node, shift } = args[0];
            let shift = shift + rows;
            return Value { node, shift };
        }
        if let Op::Rolling(Rolling::Count, window) = op {
            let zero = self.value(Op::Number(Bits::new(0.0)), Vec::new());
            let counted = self.value(Op::Binary(Binary::Ne), vec![args[0], zero]);
            return self.value(Op::Rolling(Rolling::Sum, window), vec![counted]);
        }
        let (op, args) = match self.folded(&op, &args) {
            Some(number) => (number, Vec::new()),
            None => (op, args),
        };
        let key = (op, args);
        let node = self.known.get(&key).copied().unwrap_or_else(|| {
            let (op, args) = key.clone();
            if let Op::Column(name) = &op {
                self.columns.push(name.to_string());
            }
            let longest = |rows: &dyn Fn(Value) -> usize| args.iter().map(|arg| rows(*arg)).max();
            let lookback = op.reach() + longest(&|arg| self.lookback(arg)).unwrap_or(0);
            let warmup = op.warmup() + longest(&|arg| self.warmup(arg)).unwrap_or(0);
            self.nodes.push(Node {
                op,
                args,
                lookback,
                warmup,
            });
            self.known.insert(key, self.nodes.len() - 1);
            self.nodes.len() - 1
        });
        Value { node, shift: 0 }
    }

    /// Returns the number that an operator gives if all of its arguments are numbers.
    fn folded(&self, op: &Op, args: &[Value]) -> Option<Op> {
        let mut numbers = [[0.0]; 3];
        for (number, arg) in numbers.iter_mut().zip(args) {
            match self.nodes[arg.node].op {
                // A lagged number has a warm-up.
                Op::Number(value) if arg.shift == 0 => *number = [value.get()],
                _ => return None,
            }
        }
        let mut out = [0.0];
        let computed =
            elementwise::apply(op, &numbers.each_ref().map(<[f64; 1]>::as_slice), &mut out);
        (computed && !args.is_empty()).then(|| Op::Number(Bits::new(out[0])))
    }

    /// Number of earlier rows that a value depends on.
    pub fn lookback(&self, value: Value) -> usize {
        self.nodes[value.node].lookback + value.shift
    }

    /// Number of rows at the start of a frame that have no value.
    pub fn warmup(&self, value: Value) -> usize {
        self.nodes[value.node].warmup + value.shift
    }
}
