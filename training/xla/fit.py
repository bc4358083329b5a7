"""One training with a program that `export.py` lowered, and the images that it is fitted to."""

import json
import os
import time

import channels
import compiled
import numpy as np
import philox


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
            self.last = name, [compiled.on_device(arrays[part]) for part in parts]
        return self.last[1]


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
            self._restore()

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
        self._call("estimate", images, *map(compiled.on_device, (chosen, np.int32(count))))
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
            where = said_by(self.entry["teacher"], self.images.lowered, self.trained)
            said = np.load(where, mmap_mode="r")
            drawn = [*drawn, _nearest_view(*drawn[1:], crop), said]
        return [compiled.on_device(each) for each in drawn]

    def _reset(self):
        for places in self.program.facts["metrics"].values():
            for place in places:
                self.state[place] = compiled.on_device(np.float32(0))

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
            found = self._call("opened", images, compiled.on_device(chosen))
            ranks = channels.ranks_of_gates(*map(np.asarray, found))
        kept = channels.chosen(costs, self.arguments["keep"], ranks)
        for place, each in zip(facts["biases"], kept, strict=True):
            self.state[place] = compiled.on_device(channels.biases(each))
        print(f"{self.entry['name']} keeps {[int(each.sum()) for each in kept]}", flush=True)

    def _record(self, epoch):
        test_images = self.images.of(self.entry["images"])[2]
        values = self._call("gates", test_images)
        for name, each in zip(self.program.facts["gates"], values, strict=True):
            if name.endswith("_se"):  # what FMB makes of it is known
                found = _halved(np.asarray(each), self.program.facts["threshold"])
                self.gates[f"epoch{epoch:03d}/{name}"] = found

    def _say(self, images, views):
        """As `teacher.ask`, of the images that those taught are trained on."""
        seen = self.images.of(images)[0]
        asked = ((np.int32(shift), np.bool_(mirrored)) for *shift, mirrored in views)
        said = [
            np.asarray(self._call("said", seen, *map(compiled.on_device, view))[0])
            for view in asked
        ]
        path = self.trained / f"{self.entry['name']}.said.npy"
        _replace(path, lambda file: np.save(file, np.stack(said, axis=1)))

    def _leave(self):
        """Keeps all of the state, to go on with."""
        self._write(self.unfinished, dict(enumerate(map(np.asarray, self.state))))
        print(f"{self.entry['name']}: time is over after {len(self.rows)} epochs", flush=True)

    def _restore(self):
        arrays = np.load(self.unfinished)
        program = json.loads(str(arrays["facts"])).get("program")
        if program != self.entry["program"]:
            raise ValueError(
                f"{self.unfinished} is of another program: {program}; move it away to begin anew"
            )
        self.state = [compiled.on_device(arrays[f"state/{i}"]) for i in range(len(self.state))]
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
        made_by = {name: self.entry[name] for name in ("program", "commit")}
        every = {
            **{f"state/{number}": values for number, values in state.items()},
            **{f"gates/{name}": values for name, values in self.gates.items()},
            "log": np.array(self.rows),
            "facts": np.array(json.dumps(compiled.device() | made_by)),
        }
        _replace(path, lambda file: np.savez_compressed(file, **every))


def said_by(teacher, lowered, trained):
    """The file of what a teacher says: it is with the programs where it was finished before."""
    before = lowered / f"{teacher}.said.npy"
    return before if before.exists() else trained / before.name


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
