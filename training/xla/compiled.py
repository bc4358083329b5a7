"""Programs that `export.py` lowered, compiled, and the state that they work on."""

import json
import re
import time
import zlib

import numpy as np
import philox

#: What may be part of a CUDA graph; loops and convolutions are not, unless they are asked for.
GRAPH = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
    "DYNAMIC_SLICE_FUSION,WHILE,CONVOLUTION"
}


class Program:
    """The compiled functions of a program, and what its state begins with.

    Args:
        folder: Its place.
        graphs: Whether an epoch is to be one CUDA graph, loop and all.
    """

    def __init__(self, folder, graphs=False):
        self.facts = json.loads((folder / "facts.json").read_text())
        self.arrays = dict(np.load(folder / "state.npz"))
        began = time.time()
        self.functions = {
            name: _Function(
                zlib.decompress((folder / f"{name}.hlo.z").read_bytes()),
                takes["arguments"],
                takes["state"],
                GRAPH if graphs and name == "epoch" else {},
            )
            for name, takes in self.facts["functions"].items()
        }
        print(f"compiled {folder.name} in {time.time() - began:.0f} s", flush=True)

    def begin(self, seed, lengths):
        """The state that a run begins with."""
        found = []
        for number, variable in enumerate(self.facts["state"]):
            if variable["drawn"]:
                own_seed = zlib.crc32(f"{seed} {variable['name']}".encode())
                found.append(philox.glorot(own_seed, variable["shape"]))
            else:
                found.append(self.arrays[str(number)])
        for name, steps in lengths.items():
            found[self.facts["lengths"][name]] = np.float32(steps)
        return [on_device(value) for value in found]

    def call(self, name, state, *arguments):
        """What a function returns; the state is replaced by what it makes of it."""
        function = self.functions[name]
        results = function(*arguments, *(state[place] for place in function.state))
        for result, place in function.updates.items():
            state[place] = results[result]
        return [each for i, each in enumerate(results) if i not in function.updates]


class _Function:
    """A compiled module.

    Args:
        module: HLO, serialized.
        arguments: How many.
        state: The places in the state of what it takes besides.
        options: Of the compiler.
    """

    def __init__(self, module, arguments, state, options):
        from jax._src import compiler, xla_bridge
        from jaxlib import _jax, xla_client  # JAX has no other way in for HLO

        aliases = xla_client.XlaComputation(module).as_hlo_text().split("\n", 1)[0]
        found = re.findall(r"\{(\d+)\}: \((\d+), \{\}", aliases)
        self.state = state
        self.updates = {int(out): state[int(place) - arguments] for out, place in found}
        client = xla_bridge.get_backend()
        self.compiled = client.compile_and_load(
            _stable(module),
            _jax.DeviceList(tuple(client.local_devices()[:1])),
            compiler.get_compile_options(1, 1, env_options_overrides=options),
        )

    def __call__(self, *arguments):
        results = self.compiled.execute_sharded(list(arguments))
        return [each[0] for each in results.disassemble_into_single_device_arrays()]


def _stable(module):
    """StableHLO of HLO, without the one operation that the former does not have."""
    from jax._src.interpreters import mlir
    from jaxlib import _jax
    from jaxlib.mlir import ir

    with mlir.make_ir_context():
        text = str(ir.Module.parse(_jax.mlir.hlo_to_stablehlo(module)))
        of_same_shape = r"stablehlo.reshape \1 : (\2) -> \2"
        text = re.sub(r"mhlo\.copy (%\w+) : (tensor<[^>]*>)", of_same_shape, text)
        return mlir.module_to_bytecode(ir.Module.parse(text))


def on_device(array):
    """The array where programs take it from."""
    import jax

    return jax.device_put(array)


def device():
    """What trains, for the records."""
    import jax

    return {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
