//! The schedule of a graph: the order, the rows and the buffers in which its nodes are computed.

use std::collections::HashMap;

use super::graph::{Graph, Value};
use super::op::{Op, Rolling};

/// Bytes of the buffers of a block, so that they fit into the L2 cache.
const CACHE: usize = 1 << 20;

/// Minimum and maximum number of rows in a block, unless a lookback is longer.
const ROWS: [usize; 2] = [256, 1024];

/// Where the values of a node are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Place {
    /// In the column of that index.
    Column(usize),
    /// In the number of that index.
    Number(usize),
    /// In the buffer of that index.
    Buffer(usize),
}

/// The values of an argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Source {
    pub place: Place,
    /// Index of the first value that is read.
    pub from: usize,
    /// How many more values are read than the block has rows.
    pub extra: usize,
    /// Number of rows at the start of a frame that have no value.
    pub warmup: usize,
}

/// The computation of one node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub op: Op,
    pub args: Vec<Source>,
    /// Index of the buffer for the values.
    pub out: usize,
    /// Rows before the block for which values are computed.
    pub extra: usize,
    /// Number of rows at the start of a frame that have no value.
    pub warmup: usize,
    /// The features that this completes.
    pub roots: Vec<Root>,
}

/// A feature, and where its values are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Root {
    pub feature: usize,
    pub source: Source,
}

/// Steps that share intermediate results, because they differ only in their window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    pub steps: Vec<Step>,
    /// The arguments with all values that any of the steps reads.
    pub args: Vec<Source>,
    /// The longest window.
    pub longest: usize,
}

/// A schedule for the features of a graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub stages: Vec<Stage>,
    /// Index in the graph and extra rows of each column that is read.
    pub columns: Vec<(usize, usize)>,
    /// Value and extra rows of each number.
    pub numbers: Vec<(f64, usize)>,
    /// Extra rows of each buffer.
    pub buffers: Vec<usize>,
    /// The features that are columns or numbers.
    pub inputs: Vec<Root>,
    /// Most rows of a block.
    pub rows: usize,
    /// Largest number of rows before a block that are read.
    pub lookback: usize,
}

impl Plan {
    /// Returns the schedule for the features `roots` of `graph`.
    pub fn new(graph: &Graph, roots: &[(usize, Value)]) -> Self {
        let extras = extras(graph, roots);
        let mut plan = Self {
            stages: Vec::new(),
            columns: Vec::new(),
            numbers: Vec::new(),
            buffers: Vec::new(),
            inputs: Vec::new(),
            rows: 0,
            lookback: extras.iter().flatten().copied().max().unwrap_or(0),
        };
        let order = order(graph, &extras);
        let last_use = last_use(graph, &order);
        let mut completed = vec![Vec::new(); graph.nodes.len()];
        for &(feature, root) in roots {
            completed[root.node].push((feature, root));
        }

        let mut places = vec![Place::Column(0); graph.nodes.len()];
        let mut free = Vec::new();
        let source = |places: &[Place], value: Value, extra: usize| {
            let known = extras[value.node].expect("arguments are scheduled");
            Source {
                place: places[value.node],
                from: known - extra - value.shift,
                extra,
                warmup: graph.warmup(value),
            }
        };
        for (time, stage) in order.iter().enumerate() {
            let mut steps = Vec::with_capacity(stage.len());
            let mut longest = 0;
            for &node in stage {
                let extra = extras[node].expect("a stage is scheduled");
                let made = &graph.nodes[node];
                let input = match &made.op {
                    Op::Column(name) => {
                        let known = graph.columns.iter().position(|column| **column == **name);
                        plan.columns.push((known.expect("a known column"), extra));
                        Some(Place::Column(plan.columns.len() - 1))
                    }
                    Op::Number(value) => {
                        plan.numbers.push((value.get(), extra));
                        Some(Place::Number(plan.numbers.len() - 1))
                    }
                    _ => None,
                };
                let place = input.unwrap_or_else(|| {
                    Place::Buffer(free.pop().unwrap_or_else(|| {
                        plan.buffers.push(0);
                        plan.buffers.len() - 1
                    }))
                });
                places[node] = place;
                let roots = completed[node].iter().map(|&(feature, root)| Root {
                    feature,
                    source: source(&places, root, 0),
                });
                let Place::Buffer(out) = place else {
                    plan.inputs.extend(roots);
                    continue;
                };
                plan.buffers[out] = plan.buffers[out].max(extra);
                longest = longest.max(made.op.reach() + 1);
                let read = extra + made.op.reach();
                let args = made.args.iter().map(|arg| source(&places, *arg, read));
                steps.push(Step {
                    op: made.op.clone(),
                    args: args.collect(),
                    out,
                    extra,
                    warmup: made.warmup,
                    roots: roots.collect(),
                });
            }
            let Some(first) = steps.first() else { continue };
            let args = (0..first.args.len()).map(|arg| {
                let all = steps.iter().map(|step| step.args[arg]);
                all.max_by_key(|source| source.extra).expect("not empty")
            });
            let args = args.collect();
            plan.stages.push(Stage {
                steps,
                args,
                longest,
            });
            let ended = ended(graph, stage, &last_use, time);
            free.extend(ended.iter().filter_map(|node| match places[*node] {
                Place::Buffer(buffer) => Some(buffer),
                _ => None,
            }));
        }
        let width = 8 * (plan.buffers.len() + plan.columns.len() + plan.numbers.len()).max(1);
        // Long windows get larger blocks, so that at most half of the rows read are lookback.
        plan.rows = (CACHE / width).clamp(ROWS[0], ROWS[1]).max(plan.lookback);
        plan
    }
}

/// Returns for each node the index of the last stage that reads it; 0 if none does.
fn last_use(graph: &Graph, order: &[Vec<usize>]) -> Vec<usize> {
    let mut last_use = vec![0; graph.nodes.len()];
    for (time, stage) in order.iter().enumerate() {
        for arg in stage.iter().flat_map(|node| &graph.nodes[*node].args) {
            last_use[arg.node] = time;
        }
    }
    last_use
}

/// Returns the nodes that nothing reads after the stage with the index `time`.
fn ended(graph: &Graph, stage: &[usize], last_use: &[usize], time: usize) -> Vec<usize> {
    let args = stage.iter().flat_map(|node| &graph.nodes[*node].args);
    let read = args
        .map(|arg| arg.node)
        .filter(|arg| last_use[*arg] == time);
    let unread = stage.iter().copied().filter(|node| last_use[*node] == 0);
    let mut ended: Vec<usize> = read.chain(unread).collect();
    ended.sort_unstable();
    ended.dedup();
    ended
}

/// Returns for each node that `roots` need how many rows before a block it is needed for.
fn extras(graph: &Graph, roots: &[(usize, Value)]) -> Vec<Option<usize>> {
    let mut extras: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    let need = |extras: &mut Vec<Option<usize>>, node: usize, rows: usize| {
        extras[node] = extras[node].max(Some(rows));
    };
    for (_, root) in roots {
        need(&mut extras, root.node, root.shift);
    }
    for (node, made) in graph.nodes.iter().enumerate().rev() {
        if let Some(extra) = extras[node] {
            for arg in &made.args {
                need(&mut extras, arg.node, extra + made.op.reach() + arg.shift);
            }
        }
    }
    extras
}

/// Operators that share intermediate results if they have the same arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    Sums,
    Moments,
    Pairs,
    Lowest,
    Highest,
    Quantiles,
}

impl Family {
    pub fn of(op: &Op) -> Option<Self> {
        Some(match op {
            Op::Rolling(op, _) => match op {
                Rolling::Sum | Rolling::Mean => Self::Sums,
                Rolling::Std
                | Rolling::Var
                | Rolling::Slope
                | Rolling::Rsquare
                | Rolling::Resid => Self::Moments,
                Rolling::Min | Rolling::Argmin => Self::Lowest,
                Rolling::Max | Rolling::Argmax => Self::Highest,
                Rolling::Median => Self::Quantiles,
                _ => return None,
            },
            Op::Quantile(..) => Self::Quantiles,
            Op::Pair(..) => Self::Pairs,
            _ => return None,
        })
    }
}

/// Returns the nodes to compute, those that share intermediate results together.
fn order(graph: &Graph, extras: &[Option<usize>]) -> Vec<Vec<usize>> {
    let mut members: HashMap<_, Vec<usize>> = HashMap::new();
    let wanted = || (0..graph.nodes.len()).filter(|node| extras[*node].is_some());
    let key = |node: usize| {
        let made = &graph.nodes[node];
        Family::of(&made.op).map(|family| (family, made.args.clone()))
    };
    for node in wanted() {
        if let Some(key) = key(node) {
            members.entry(key).or_default().push(node);
        }
    }
    // All members of a family take the place of the first one, with equal windows side by side.
    let mut order = Vec::new();
    for node in wanted() {
        let Some(key) = key(node) else {
            order.push(vec![node]);
            continue;
        };
        if let Some(mut members) = members.remove(&key) {
            members.sort_by_key(|node| (graph.nodes[*node].op.reach(), extras[*node]));
            order.push(members);
        }
    }
    order
}
