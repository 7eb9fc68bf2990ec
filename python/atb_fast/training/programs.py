"""TensorFlow functions that are traced once for all models with the same layers.

`tf.function` traces a network by running its Python code, in every process and for every model.
This takes longer than a short epoch. A `Program` stores the trace for later processes, and takes
the variables of a model as arguments, so that one trace serves all models.

TensorFlow numbers functions in the order in which a process traces them. XLA finds a compiled
program by its name, so the names here depend only on what is traced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import keras
import tensorflow as tf
from keras.saving import deserialize_keras_object, serialize_keras_object

# The public API cannot call a function by name.
from tensorflow.python.eager import context

from atb_fast.training.compile_cache import keep_trace, kept_programs, kept_trace
from atb_fast.training.layers import wiring
from atb_fast.training.startup import quiet

#: Attribute of a traced function: the indices of the variables that it takes.
_VARIABLES = "_atb_fast_variables"
#: Keras and TensorFlow share global state between threads that trace.
_tracing = Lock()
#: Only one thread at a time may redirect stderr.
_compiling = Lock()


@contextmanager
def compiling() -> Iterator[None]:
    """Find compiled programs and keep new ones; XLA's false alarms do not reach the terminal."""
    with _compiling, quiet(), kept_programs():
        yield


class Program:
    """A function of tensors and of the variables of a model.

    Example:
        >>> double = Program("double", "", lambda: (lambda x: v * x, [v]))
    """

    def __init__(
        self,
        name: str,
        described: str,
        make: Callable[[], tuple[Callable[..., Any], Sequence[Any]]],
        *,
        compiled: bool = True,
        any_batch: bool = False,
    ) -> None:
        """Create a program. It is traced on its first call.

        Args:
            name: Name of the function.
            described: What the function depends on besides the shapes of its arguments.
            make: Returns the function, and the tf.Variable objects that it uses.
            compiled: Whether XLA compiles it.
            any_batch: Whether the size of the first axis of the arguments may vary.
        """
        self._name, self._described, self._make = name, described, make
        self._compiled, self._any_batch = compiled, any_batch
        self._ran: set[bytes] = set()
        self._found: dict[tuple[Any, ...], tuple[bytes, list[int]]] = {}

    def __call__(self, variables: Sequence[Any], *arguments: Any) -> Any:
        """Return the result of the function.

        Args:
            variables: The variables of a model, in the order of those from `make`.
            arguments: Tensors or arrays.
        """
        name, inputs = self._bound(variables, arguments)
        if not self._compiled or name in self._ran:
            return _call(name, inputs)
        with compiling():
            result = _call(name, inputs)
        self._ran.add(name)
        return result

    def compile(self, variables: Sequence[Any], *arguments: Any) -> None:
        """Call the function if it has not been compiled for such arguments, in `compiling`."""
        name, inputs = self._bound(variables, arguments)
        if name not in self._ran:
            _call(name, inputs)
            self._ran.add(name)

    def _bound(self, variables: Sequence[Any], arguments: Sequence[Any]) -> tuple[bytes, list[Any]]:
        """Return the name of the traced function, and all of its inputs."""
        tensors = [tf.convert_to_tensor(argument) for argument in arguments]
        name, numbers = self._of([self._spec(tensor) for tensor in tensors])
        return name, [*tensors, *(variables[number].handle for number in numbers)]

    def _spec(self, tensor: Any) -> Any:
        shape = [None, *tensor.shape[1:]] if self._any_batch else tensor.shape
        return tf.TensorSpec(shape, tensor.dtype)

    def _of(self, specs: list[Any]) -> tuple[bytes, list[int]]:
        """Return the name of the traced function, and the indices of its variables."""
        key = tuple((tuple(spec.shape), spec.dtype) for spec in specs)
        with _tracing:
            if key not in self._found:
                self._found[key] = self._find(specs, repr(key))
        return self._found[key]

    def _find(self, specs: list[Any], key: str) -> tuple[bytes, list[int]]:
        what = [self._name, self._described, key, _code(), keras.__version__, tf.__version__]
        what += [device.name for device in tf.config.list_physical_devices("GPU")]  # cuDNN
        name = f"atb_{self._name}_{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}"
        library = tf.compat.v1.GraphDef().library
        kept = kept_trace(name)
        if kept is None:
            library = self._trace(specs, name)
            keep_trace(name, library.SerializeToString(deterministic=True))
        else:
            library.ParseFromString(kept)
        for function in library.function:
            if not context.context().has_function(function.signature.name):
                context.context().add_function_def(function)
        (found,) = (f for f in library.function if f.signature.name == name)
        return name.encode(), list(found.attr[_VARIABLES].list.i)

    def _trace(self, specs: list[Any], name: str) -> Any:
        """Return the function called `name`, and the functions that it calls."""
        function, variables = self._make()
        made = tf.function(function, jit_compile=self._compiled or None, autograph=False)
        concrete = made.get_concrete_function(*specs)
        library = concrete.graph.as_graph_def().library
        known = {function.signature.name: function for function in library.function}
        own = concrete.function_def
        handles = [id(variable.handle) for variable in variables]
        numbers = [handles.index(id(captured)) for captured in concrete.captured_inputs]
        own.attr[_VARIABLES].list.i.extend(numbers)
        known[own.signature.name] = own
        renamed = {own.signature.name: name}
        reached = tf.compat.v1.GraphDef().library
        for old in (pending := [own.signature.name]):
            function = reached.function.add()
            function.CopyFrom(known[old])
            function.signature.name = renamed[old]
            for called in _called(function):
                if called.name not in renamed:
                    renamed[called.name] = f"{name}_{len(renamed)}"
                    pending.append(called.name)
                called.name = renamed[called.name]
        return reached


def variables(model: Any) -> list[Any]:
    """Return the weights of a model, those that are trained first."""
    return [each.value for each in (*model.trainable_weights, *model.non_trainable_weights)]


def description(model: Any, *more: Any) -> str:
    """Return the graph of the layers of a model, and other Keras objects, as JSON.

    Names and initializers are left out, because programs do not depend on them.

    Args:
        model: A model that `layers` supports.
        more: Its optimizer, if any.
    """
    wired = wiring(model)
    items = [serialize_keras_object(item) for item in (*(layer for layer, _ in wired), *more)]
    for item in items:
        config = item["config"]
        config["name"] = None
        config.update({key: "zeros" for key in config if key.endswith("_initializer")})
    inputs = [numbers for _, numbers in wired]
    described = {"input_shape": model.input_shape[1:], "inputs": inputs, "items": items}
    return json.dumps(described, sort_keys=True)


def made(description: str) -> Any:
    """Return a model with this description, and with its optimizer if it has one."""
    given = json.loads(description)
    # The same names in every process, so that programs are found again.
    for i, item in enumerate(given["items"]):
        item["config"]["name"] = f"item_{i}"
    items = [deserialize_keras_object(item) for item in given["items"]]
    values = [keras.Input(given["input_shape"], name="input")]
    for layer, numbers in zip(items, given["inputs"], strict=False):  # an optimizer may follow
        inputs = [values[number] for number in numbers]
        values.append(layer(inputs if len(inputs) > 1 else inputs[0]))
    model = keras.Model(values[0], values[-1], name="model")
    for optimizer in items[len(given["inputs"]) :]:
        optimizer.build(model.trainable_variables)
        model.optimizer = optimizer
    return model


def outputs(model: Any) -> Callable[[Any], Any]:
    """Return the function that computes the outputs of a model for windows, as Keras does.

    Args:
        model: A model that `layers` supports.
    """
    return partial(_outputs(description(model)), variables(model))


@cache
def _outputs(described: str) -> Program:
    """Return the program of all models with this description."""

    def make() -> tuple[Callable[..., Any], list[Any]]:
        model = made(described)
        return lambda windows: model(windows, training=False), variables(model)

    return Program("outputs", described, make, compiled=False, any_batch=True)


def _call(name: bytes, inputs: list[Any]) -> Any:
    """Return the result of a function, which has only one."""
    (result,) = context.context().call_function(name, inputs, 1)
    return result


def _called(function: Any) -> Iterator[Any]:
    """Yield the attributes in which nodes of a traced function refer to other functions."""
    for node in function.node_def:
        for name in sorted(node.attr):
            if node.attr[name].HasField("func"):
                yield node.attr[name].func
            yield from node.attr[name].list.func


@cache
def _code() -> str:
    """Return a checksum of the code that decides what is traced."""
    parts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(parts)).hexdigest()
