"""Trains what `xla_export.py` lowered, many runs at once, where there is JAX and no TensorFlow.

    python3 lowered/xla_train.py lowered trained [--processes 16] [--seconds 500]

Every process takes the next run of runs.json, compiles its program and trains; a run that is
finished is one file in the folder `trained`. One that time ends is left as `.part.npz`, and
goes on where that lies in `trained` at the beginning.
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

RUNS_FILE, IMAGES_FILE = "runs.json", "images.npz"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lowered", type=pathlib.Path)
    parser.add_argument("trained", type=pathlib.Path)
    parser.add_argument("--processes", type=int, default=1, help="how many train at once")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no epoch after so many")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.trained.mkdir(parents=True, exist_ok=True)
    if given.until:
        _work(given.lowered, given.trained, given.until)
        return
    for stale in given.trained.glob("*.claim"):
        stale.rmdir()
    until = str(time.time() + given.seconds)
    command = [sys.executable, __file__, str(given.lowered), str(given.trained), "--until", until]
    workers = []
    for number in range(given.processes):
        with open(given.trained / f"process{number:02d}.txt", "a") as output:
            workers.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
    sys.exit(max(worker.wait() for worker in workers))


def _work(lowered, trained, until):
    """Trains one run after another that no other process has claimed."""
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # the optimizer counts in 64 bits
    entries = json.loads((lowered / RUNS_FILE).read_text())
    images = _Images(np.load(lowered / IMAGES_FILE))
    programs = {}
    while time.time() < until:
        entry, waiting = _claim(entries, trained, programs)
        if entry is None:
            if not waiting:
                return
            time.sleep(0.5)
            continue
        key = entry["program"]
        if key not in programs:
            programs.clear()  # one at a time: executables take memory
            programs[key] = Program(lowered / key)
        try:
            Run(entry, programs[key], images, trained).train(until)
        except Exception as problem:  # the others go on
            print(f"{entry['name']} failed: {problem!r}", flush=True)


def _claim(entries, trained, programs):
    """The next run that can be trained, None if there is none; and whether some wait for others.

    Those of a program that is compiled come first.
    """
    waiting = False
    for entry in sorted(entries, key=lambda entry: entry["program"] not in programs):
        place = trained / f"{entry['name']}.npz"
        if place.exists():
            continue
        if entry["teacher"] and not (trained / f"{entry['teacher']}.said.npy").exists():
            waiting = True
            continue
        try:
            place.with_suffix(".claim").mkdir()
        except FileExistsError:
            continue
        return entry, waiting
    return None, waiting


class _Images:
    """The images on the device, whole or without those that are held out."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.parts = {}

    def part(self, held_out):
        if held_out not in self.parts:
            arrays = self.arrays
            train = arrays["train"], arrays["train_labels"].astype(np.int32)
            test = arrays["test"], arrays["test_labels"].astype(np.int32)
            if held_out:
                numbers = arrays[f"held_out{held_out}"]
                kept = np.setdiff1d(np.arange(len(train[0])), numbers)
                test = tuple(each[numbers] for each in train)
                train = tuple(each[kept] for each in train)
            self.parts = {held_out: [_on_device(each) for each in (*train, *test)]}
        return self.parts[held_out]


def _on_device(array):
    import jax

    return jax.device_put(array)


class Program:
    """The compiled functions of a program, and what its state begins with."""

    def __init__(self, folder):
        self.facts = json.loads((folder / "facts.json").read_text())
        self.arrays = dict(np.load(folder / "state.npz"))
        began = time.time()
        self.functions = {
            name: _Function(
                zlib.decompress((folder / f"{name}.hlo.z").read_bytes()),
                takes["arguments"],
                takes["state"],
            )
            for name, takes in self.facts["functions"].items()
        }
        print(f"compiled {folder.name} in {time.time() - began:.0f} s", flush=True)

    def state(self, seed, lengths):
        """The values that a run begins with."""
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
    """

    def __init__(self, module, arguments, state):
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
            compiler.get_compile_options(1, 1),
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


class Run:
    """One training.

    Args:
        entry: Of runs.json.
        program: Its `Program`.
        images: `_Images`.
        trained: The folder of what is finished.
    """

    def __init__(self, entry, program, images, trained):
        self.entry, self.program, self.trained, self.images = entry, program, trained, images
        self.train_images, self.labels, self.test_images, self.test_labels = images.part(
            entry["arguments"]["held_out"]
        )
        self.rows, self.gates, self.kept = [], {}, None
        part = self._part()
        self.state = program.state(entry["arguments"]["seed"], entry["lengths"])
        if part.exists():
            self._restore(np.load(part))
        self.said = None
        if entry["teacher"]:
            self.said = _on_device(np.load(trained / f"{entry['teacher']}.said.npy"))
        order = np.random.default_rng(0).permutation(len(self.train_images))
        self.chosen = _on_device(order[: self._many("estimate")].astype(np.int32))

    def _part(self):
        return self.trained / f"{self.entry['name']}.part.npz"

    def train(self, until):
        entry = self.entry
        for epoch in range(len(self.rows), entry["arguments"]["epochs"]):
            if time.time() > until:
                self._leave()
                return
            if epoch == entry["settles"]:
                self._settle()
            self.rows.append([epoch + 1, *self._epoch(epoch)])
            error, seconds = self.rows[-1][5:]
            print(f"{entry['name']}: epoch {epoch + 1}, {error:.2%}, {seconds:.1f} s", flush=True)
            if not np.isfinite(self.rows[-1]).all():
                raise ValueError(f"the loss is no number after epoch {epoch + 1}")
            if "gates" in self.program.functions and epoch + 1 in entry["gate_epochs"]:
                values = self.program.call("gates", self.state, self.test_images)
                for name, each in zip(self.program.facts["gates"], values, strict=True):
                    if name.endswith("_se"):  # what FMB makes of it is known
                        found = _halved(np.asarray(each), self.program.facts["threshold"])
                        self.gates[f"epoch{epoch + 1:03d}/{name}"] = found
        if entry["said"]:
            self._say()
        self._finish()

    def _epoch(self, epoch):
        """Trains and tests; returns what a row of a log holds."""
        drawn = self._drawn(epoch)
        began = time.time()
        self._reset()
        rate = float(self._call("epoch", self.train_images, self.labels, *drawn)[0])
        trained = self._metrics()
        seconds = time.time() - began
        last = epoch + 1 == self.entry["arguments"]["epochs"] and not self.entry["extendable"]
        count = self.chosen.shape[0] if last else min(self.entry["estimated"], self.chosen.shape[0])
        self._call("estimate", self.train_images, self.chosen, _on_device(np.int32(count)))
        self._reset()
        self._call("test", self.test_images, self.test_labels)
        return [rate, *trained, *self._metrics(), seconds]

    def _many(self, name):
        """How many images a function takes by their numbers."""
        return self.program.facts["functions"][name]["chosen"]

    def _call(self, name, *arguments):
        return self.program.call(name, self.state, *arguments)

    def _drawn(self, epoch):
        entry = self.entry
        key = (entry["arguments"]["seed"], epoch, len(self.labels), entry["arguments"]["batch_size"], entry["arguments"]["flip"])
        drawn = _shared_draws(self.trained, (*key, entry["arguments"]["crop"]))
        if self.said is not None:
            drawn = (*drawn, _nearest_view(*drawn[1:], entry["arguments"]["crop"]), self.said)
        return [_on_device(each) for each in drawn]

    def _reset(self):
        for places in self.program.facts["metrics"].values():
            for place in places:
                self.state[place] = _on_device(np.float32(0))

    def _metrics(self):
        """Loss and error, means since the last reset."""
        places = self.program.facts["metrics"]
        totals = [[float(self.state[place]) for place in places[name]] for name in ("loss", "error")]
        return [total / count for total, count in totals]

    def _settle(self):
        """As `closing.Closing` does."""
        entry, facts = self.entry, self.program.facts
        costs = [np.array(each) for each in facts["costs"]]
        if entry["arguments"]["keep_by"] == "random":
            ranks = channels.ranks_of_chance(entry["arguments"]["seed"], sum(map(len, costs)))
        else:
            order = np.random.default_rng(entry["arguments"]["seed"]).permutation(len(self.labels))
            chosen = _on_device(np.sort(order[: self._many("opened")]).astype(np.int32))
            ranks = channels.ranks_of_gates(
                *map(np.asarray, self._call("opened", self.train_images, chosen))
            )
        self.kept = channels.chosen(costs, entry["arguments"]["keep"], ranks)
        for place, kept in zip(facts["biases"], self.kept, strict=True):
            self.state[place] = _on_device(channels.biases(kept))
        print(f"{entry['name']} keeps {[int(each.sum()) for each in self.kept]}", flush=True)

    def _say(self):
        """As `teacher.ask`, of the images that those taught train on."""
        crop, flips = self.entry["said"], (False, True)
        seen = self.images.part(None)[0]
        shifts = [(row, column) for row in (-crop, 0, crop) for column in (-crop, 0, crop)]
        said = [
            np.asarray(
                self._call(
                    "said", seen, _on_device(np.array(shift, np.int32)), _on_device(np.array(flip))
                )[0]
            )
            for flip in flips
            for shift in shifts
        ]
        path = self.trained / f"{self.entry['name']}.said.npy"
        _replace(path, lambda file: np.save(file, np.stack(said, axis=1)))

    def _leave(self):
        arrays = {f"state/{i}": np.asarray(value) for i, value in enumerate(self.state)}
        self._write(self._part(), arrays)
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
        arrays = {}
        for number, variable in enumerate(self.program.facts["state"]):
            if variable["kept"]:
                values = np.asarray(self.state[number])
                signs = variable["signs"]
                arrays[f"state/{number}"] = np.packbits(values >= 0) if signs else values
        self._write(self.trained / f"{self.entry['name']}.npz", arrays)

    def _write(self, path, arrays):
        import jax

        device = jax.devices()[0]
        facts = {"device": device.device_kind, "jax": jax.__version__}
        every = {
            **arrays,
            **{f"gates/{name}": values for name, values in self.gates.items()},
            "log": np.array(self.rows),
            "facts": np.array(json.dumps(facts)),
        }
        _replace(path, lambda file: np.savez_compressed(file, **every))


def _halved(values, threshold):
    """Values in float16, on the same side of a threshold."""
    halved = values.astype(np.float16)
    moved = (halved >= threshold) != (values >= threshold)
    return np.where(moved, np.nextafter(halved, np.float16(-np.inf)), halved)


def _nearest_view(shift, mirrored, crop):
    """As `teacher.Said.nearest`."""
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
    return found["order"], found["shift"], found["mirrored"]


def _replace(path, write):
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with open(part, "wb") as file:
        write(file)
    part.rename(path)


if __name__ == "__main__":
    main()
