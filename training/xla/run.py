"""Trains what `export.py` lowered, many runs at once; needs JAX and NumPy alone.

    python3 lowered/run.py lowered trained [--processes 16] [--seconds 500] [--graphs]

Each process takes the next run of runs.json, compiles its program and trains. A run that is
finished is one file in the folder `trained`, one that time ended is `.part.npz` there, and goes on
where this is called again. One call at a time may have a folder.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import zlib

import channels
import numpy as np
import philox

RUNS_FILE = "runs.json"
#: What may be part of a CUDA graph; loops and convolutions are not, unless they are asked for.
GRAPH = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
    "DYNAMIC_SLICE_FUSION,WHILE,CONVOLUTION"
}


def main():
    """Trains in processes of their own, until all is done or time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lowered", type=pathlib.Path, help="what export.py wrote")
    parser.add_argument("trained", type=pathlib.Path, help="folder of what is finished")
    parser.add_argument("--processes", type=int, default=1, help="how many train at once")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no epoch after so many")
    parser.add_argument(
        "--graphs",
        action="store_true",
        help="make each epoch one CUDA graph: fewer cores are busy; a run that cannot be captured "
        "is trained without",
    )
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.processes < 1:
        parser.error(f"--processes must be at least 1, received {given.processes}")
    given.trained.mkdir(parents=True, exist_ok=True)
    if given.until:
        _work(given.lowered, given.trained, given.until, given.graphs)
        return
    for stale in (*given.trained.glob("*.claim"), *given.trained.glob("*.failed")):
        stale.unlink()
    until = time.time() + given.seconds
    command = [sys.executable, __file__, given.lowered, given.trained, "--until", str(until)]
    command += ["--graphs"] * given.graphs
    autotune = given.trained.absolute() / "autotune"
    autotune.mkdir(exist_ok=True)
    first_chooses = not any(autotune.iterdir())
    workers = []
    for number in range(given.processes):
        with open(given.trained / f"process{number:02d}.txt", "a") as output:
            before = output.tell()
            workers.append(
                subprocess.Popen(
                    list(map(str, command)),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=_environment(autotune, given.graphs),
                )
            )
        if number == 0 and first_chooses:
            _wait_for_compiled(workers[0], pathlib.Path(output.name), before)
    while None in [worker.poll() for worker in workers]:  # or those that were killed seem to live
        time.sleep(0.5)
    failed = _failed(given.trained, workers)
    if failed or any(worker.returncode for worker in workers):
        sys.exit(f"failed: {failed or 'processes'}; why stands in {given.trained}/process*.txt")


def _failed(trained, workers):
    """The runs that say so, and those in whose training a process was killed."""
    killed = {str(worker.pid) for worker in workers if worker.returncode}
    cut_off = {
        claim.stem
        for claim in trained.glob("*.claim")
        if claim.read_text() in killed and not claim.with_suffix(".npz").exists()
    }
    return sorted(cut_off | {path.stem for path in trained.glob("*.failed")})


def _environment(autotune, graphs):
    """One accelerator for many: no process takes all of its memory, and what one has found to be
    its fastest algorithms the others know. Kernels cannot be loaded while a graph is captured, so
    with graphs all are loaded at the start."""
    flags = f"--xla_gpu_per_fusion_autotune_cache_dir={autotune} --xla_gpu_enable_triton_gemm=false"
    return {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_ENABLE_X64": "1",  # the optimizer counts in 64 bits
        **({"CUDA_MODULE_LOADING": "EAGER"} if graphs else {}),
        **os.environ,
        "XLA_FLAGS": f"{flags} {os.environ.get('XLA_FLAGS', '')}",
    }


def _wait_for_compiled(worker, output, before):
    """Until the first process has compiled: then the others find algorithms that are chosen."""
    while worker.poll() is None and "compiled" not in output.read_text()[before:]:
        time.sleep(0.2)


def _work(lowered, trained, until, graphs):
    """Trains one run after another that no other process has claimed."""
    entries = json.loads((lowered / RUNS_FILE).read_text())
    images, programs, again = Images(lowered), {}, None
    while time.time() < until:
        entry, again = again or _claim(entries, trained, programs), None
        if entry is None:
            return
        key = entry["program"]
        try:
            if key not in programs:
                programs.clear()  # one at a time: executables take memory
                programs[key] = Program(lowered / key, graphs)
            if _is_taught(entry, trained, until):
                Run(entry, programs[key], images, trained).train(until)
        except Exception as problem:  # the others go on
            print(f"{entry['name']} failed: {problem!r}", flush=True)
            if graphs and not isinstance(problem, ValueError):
                graphs, again = False, entry  # it may be that a convolution cannot be captured
                programs.clear()
            else:
                (trained / f"{entry['name']}.failed").touch()


def _claim(entries, trained, programs):
    """The next run that can be trained, None if there is none.

    Runs of a program that is compiled come first, those that wait for their teacher last.
    """

    def waits(entry):
        return bool(entry["teacher"]) and not (trained / f"{entry['teacher']}.said.npy").exists()

    for entry in sorted(entries, key=lambda each: (waits(each), each["program"] not in programs)):
        place = trained / f"{entry['name']}.npz"
        if place.exists():
            continue
        try:
            with open(place.with_suffix(".claim"), "x") as claim:
                claim.write(str(os.getpid()))
        except FileExistsError:
            continue
        return entry
    return None


def _is_taught(entry, trained, until):
    """Whether all is there that a run needs; waits for its teacher until a time."""
    if not entry["teacher"]:
        return True
    said, failed, claim = (
        trained / f"{entry['teacher']}.{ending}" for ending in ("said.npy", "failed", "claim")
    )
    while not said.exists():
        if time.time() > until:
            return False
        if failed.exists() or not claim.exists() or not _lives(int(claim.read_text() or 0)):
            raise ValueError(f"its teacher {entry['teacher']} said nothing and is not in training")
        time.sleep(0.5)
    return True


def _lives(process):
    """Whether a process is there; 0, one that has not said its number yet, is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class Images:
    """The data sets of a folder, the last one that was asked for on the device."""

    def __init__(self, lowered):
        self.lowered = lowered
        self.last = None, None

    def of(self, name):
        """Training images, labels, test images and labels, by the name of their file."""
        if self.last[0] != name:
            arrays = np.load(self.lowered / f"{name}.npz")
            parts = ("train", "train_labels", "test", "test_labels")
            self.last = name, [_on_device(arrays[part]) for part in parts]
        return self.last[1]


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
        return [_on_device(value) for value in found]

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


def _on_device(array):
    import jax

    return jax.device_put(array)


def _device():
    """What trains, for the records."""
    import jax

    return {"device": jax.devices()[0].device_kind, "jax": jax.__version__}


class Run:
    """One training.

    Args:
        entry: Of runs.json.
        program: Its `Program`.
        images: `Images`.
        trained: The folder of what is finished.
    """

    def __init__(self, entry, program, images, trained):
        self.entry, self.program, self.images, self.trained = entry, program, images, trained
        self.arguments = entry["arguments"]
        self.rows, self.gates = [], {}
        self.state = program.begin(self.arguments["seed"], entry["lengths"])
        self.unfinished = trained / f"{entry['name']}.part.npz"
        if self.unfinished.exists():
            self._restore(np.load(self.unfinished))

    def train(self, until):
        """Trains the epochs that are left, as many as begin before a time."""
        for epoch in range(len(self.rows), self.arguments["epochs"]):
            if time.time() > until:
                self._leave()
                return
            if epoch == self.entry["settles"]:
                self._settle()
            self.rows.append([epoch + 1, *self._epoch(epoch)])
            error, seconds = self.rows[-1][5:]
            print(
                f"{self.entry['name']}: epoch {epoch + 1}, {error:.2%}, {seconds:.1f} s", flush=True
            )
            if not np.isfinite(self.rows[-1]).all():
                raise ValueError(f"the loss is no number after epoch {epoch + 1}")
            if self.program.facts["gates"] and epoch + 1 in self.entry["gate_epochs"]:
                self._record(epoch + 1)
        if self.entry["said"]:
            self._say(**self.entry["said"])
        self._finish()

    def _epoch(self, epoch):
        """Trains and tests; returns what a row of a log holds."""
        images, labels, *test = self.images.of(self.entry["images"])
        drawn = self._drawn(epoch, len(labels))
        began = time.time()
        self._reset()
        rate = float(self._call("epoch", images, labels, *drawn)[0])
        trained = self._metrics()
        seconds = time.time() - began
        last = epoch + 1 == self.arguments["epochs"] and not self.entry["extendable"]
        order = np.random.default_rng(0).permutation(len(labels))  # as BatchNormEstimator
        chosen = order[: self._many("estimate")].astype(np.int32)
        count = len(chosen) if last else min(self.entry["estimated"], len(chosen))
        self._call("estimate", images, *map(_on_device, (chosen, np.int32(count))))
        self._reset()
        self._call("test", *test)
        return [rate, *trained, *self._metrics(), seconds]

    def _call(self, name, *arguments):
        return self.program.call(name, self.state, *arguments)

    def _many(self, name):
        """How many images a function takes by their numbers."""
        return self.program.facts["functions"][name]["chosen"]

    def _drawn(self, epoch, count):
        batch_size, flip, crop = (self.arguments[name] for name in ("batch_size", "flip", "crop"))
        key = self.arguments["seed"], epoch, count, batch_size, flip, crop
        drawn = _shared_draws(self.trained, key)
        if self.entry["teacher"]:
            said = np.load(self.trained / f"{self.entry['teacher']}.said.npy", mmap_mode="r")
            drawn = [*drawn, _nearest_view(*drawn[1:], crop), said]
        return [_on_device(each) for each in drawn]

    def _reset(self):
        for places in self.program.facts["metrics"].values():
            for place in places:
                self.state[place] = _on_device(np.float32(0))

    def _metrics(self):
        """Loss and error, means since the last reset."""
        places = self.program.facts["metrics"]
        totals = ([float(self.state[place]) for place in places[name]] for name in places)
        return [total / count for total, count in totals]

    def _settle(self):
        """As `closing.Closing` does."""
        seed, facts = self.arguments["seed"], self.program.facts
        costs = [np.array(each) for each in facts["costs"]]
        if self.arguments["keep_by"] == "random":
            ranks = channels.ranks_of_chance(seed, sum(map(len, costs)))
        else:
            images = self.images.of(self.entry["images"])[0]
            order = np.random.default_rng(seed).permutation(len(images))
            chosen = np.sort(order[: self._many("opened")]).astype(np.int32)
            found = self._call("opened", images, _on_device(chosen))
            ranks = channels.ranks_of_gates(*map(np.asarray, found))
        kept = channels.chosen(costs, self.arguments["keep"], ranks)
        for place, each in zip(facts["biases"], kept, strict=True):
            self.state[place] = _on_device(channels.biases(each))
        print(f"{self.entry['name']} keeps {[int(each.sum()) for each in kept]}", flush=True)

    def _record(self, epoch):
        test_images = self.images.of(self.entry["images"])[2]
        values = self._call("gates", test_images)
        for name, each in zip(self.program.facts["gates"], values, strict=True):
            if name.endswith("_se"):  # what FMB makes of it is known
                found = _halved(np.asarray(each), self.program.facts["threshold"])
                self.gates[f"epoch{epoch:03d}/{name}"] = found

    def _say(self, images, crop, flip):
        """As `teacher.ask`, of the images that those taught are trained on."""
        seen = self.images.of(images)[0]
        flips = (False, True) if flip else (False,)
        shifts = [(row, column) for row in (-crop, 0, crop) for column in (-crop, 0, crop)]
        said = [
            np.asarray(
                self._call("said", seen, *map(_on_device, (np.int32(shift), np.bool_(mirrored))))[0]
            )
            for mirrored in flips
            for shift in (shifts if crop else [(0, 0)])
        ]
        path = self.trained / f"{self.entry['name']}.said.npy"
        _replace(path, lambda file: np.save(file, np.stack(said, axis=1)))

    def _leave(self):
        """Keeps all of the state, to go on with."""
        self._write(self.unfinished, dict(enumerate(map(np.asarray, self.state))))
        print(f"{self.entry['name']}: time is over after {len(self.rows)} epochs", flush=True)

    def _restore(self, arrays):
        self.state = [_on_device(arrays[f"state/{i}"]) for i in range(len(self.state))]
        self.rows = arrays["log"].tolist()
        self.gates = {
            name.removeprefix("gates/"): arrays[name]
            for name in arrays.files
            if name.startswith("gates/")
        }

    def _finish(self):
        """Keeps the weights, those that count by their signs as bits."""
        kept = {}
        for number, variable in enumerate(self.program.facts["state"]):
            if variable["kept"]:
                values = np.asarray(self.state[number])
                kept[number] = np.packbits(values >= 0) if variable["signs"] else values
        self._write(self.trained / f"{self.entry['name']}.npz", kept)
        self.unfinished.unlink(missing_ok=True)

    def _write(self, path, state):
        every = {
            **{f"state/{number}": values for number, values in state.items()},
            **{f"gates/{name}": values for name, values in self.gates.items()},
            "log": np.array(self.rows),
            "facts": np.array(json.dumps(_device())),
        }
        _replace(path, lambda file: np.savez_compressed(file, **every))


def _halved(values, threshold):
    """Values in float16, on the same side of a threshold."""
    halved = values.astype(np.float16)
    moved = (halved >= threshold) != (values >= threshold)
    return np.where(moved, np.nextafter(halved, np.float16(-np.inf)), halved)


def _nearest_view(shift, mirrored, crop):
    """As `teacher.Said.nearest`."""
    if not crop:
        return mirrored.astype(np.int32)
    steps = np.round(shift / crop).astype(np.int32) + 1
    return 3 * steps[0] + steps[1] + 9 * mirrored.astype(np.int32)


def _shared_draws(folder, key):
    """The draws of an epoch, which many runs have in common: who is first leaves them to others."""
    path = folder / "draws" / f"{'_'.join(map(str, map(int, key)))}.npz"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        order, shift, mirrored = philox.of_epoch(*key)
        _replace(path, lambda file: np.savez(file, order=order, shift=shift, mirrored=mirrored))
    found = np.load(path)
    return [found[name] for name in ("order", "shift", "mirrored")]


def _replace(path, write):
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with open(part, "wb") as file:
        write(file)
    part.rename(path)


if __name__ == "__main__":
    main()
