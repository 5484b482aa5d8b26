"""The trials of every kind. A trial gives a row: what was done, how it ended, and whether it was survived."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.faults.commands import Command, Workshop
from benchmarks.faults.harness import Ended, digest, start

OUTPUT = "out.json"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOST_WRITES = 20
"""Of a command, from which on the disk is full: all of them, or that many from the first to the last."""
UNFINISHED = (".partial", ".old", ".lock")
"""How names end that nobody but a running command may leave in a folder."""
DIFFERENT = (
    ("slim", "finetune"), ("finetune", "slim"), ("finetune", "iterate"), ("iterate", "run"), ("run", "stagewise"),
    ("stagewise", "bench"), ("export", "sweep"), ("sweep", "slim"), ("slim", "export"), ("bench", "export"),
    ("plan", "solve"), ("latency-table", "plan"),
)  # fmt: skip
"""Pairs of commands that write to the same place."""
MIDWAY = (
    ("/checkpoints/step-*/model.safetensors", "finetune"),
    ("/checkpoints/step-*/state.json", "finetune"),
    ("/checkpoints/step-*/optimizer.bin", "finetune"),
    ("/best.safetensors", "finetune"),
    ("/rounds/1/model.safetensors", "iterate"),
    ("/ensemble.json", "iterate"),
    ("/slim/model.safetensors", "run"),
    ("/plan.json", "run"),
    ("/runs.jsonl", "bench"),
    ("/supernet.safetensors", "stagewise"),
    ("/losses.json", "stagewise"),
    ("", "latency-table"),
    (".values.json", "plan --values"),
)
"""What an interrupted command continues from: the end of a path, and the command."""
KINDS_MIDWAY = 3


@dataclass(frozen=True)
class Row:
    """One trial: what was `lost` or told wrongly in words, empty where it was survived."""

    kind: str
    name: str
    ended: str
    traceback: bool = False
    lost: str = ""
    wrong: str = ""


class Trials:
    """All trials in one folder, with the reference results of commands that nothing disturbed."""

    def __init__(self, shop: Workshop, folder: Path) -> None:
        self.shop, self.folder = shop, folder
        self.commands = shop.commands()
        self._cuts: dict[str, str] = {}
        self._references: dict[str, tuple[str, float, int]] = {}
        self._number = 0

    def _fresh(self) -> tuple[Path, Path]:
        """A folder for a trial's logs, and one in which it runs."""
        self._number += 1
        place = self.folder / f"{self._number:04d}"
        shutil.rmtree(place, ignore_errors=True)
        return place / "logs", place / "cwd"

    def reference(self, command: Command) -> tuple[str, float, int]:
        """Result, seconds and writes of an undisturbed run."""
        if command.name not in self._references:
            logs, cwd = self._fresh()
            ended = start(command.arguments(cwd / OUTPUT), logs, cwd, full_at=0).wait()
            if ended.code != 0:
                raise RuntimeError(f"{command.name} fails undisturbed: {ended.err[-800:]}")
            self._references[command.name] = command.result(cwd / OUTPUT), ended.seconds, ended.writes
        return self._references[command.name]

    def kills(self, number: int) -> Row:
        """A resumable command, killed at a random moment once or twice, and given again until it is done."""
        draw = random.Random(number)
        resumable = [command for command in self.commands.values() if command.resumes]
        command = resumable[number % len(resumable)]
        wanted, seconds, _ = self.reference(command)
        logs, cwd = self._fresh()
        sent = SIGNALS[(number // len(resumable)) % len(SIGNALS)]
        delays = [draw.uniform(0.02, seconds) for _ in range(1 + number % 2)]
        ends = []
        for turn, delay in enumerate(delays):
            running = start(command.arguments(cwd / OUTPUT), logs / str(turn), cwd)
            time.sleep(delay)
            running.kill(sent)
            ends.append(running.wait())
        ends.append(start(command.arguments(cwd / OUTPUT), logs / "again", cwd).wait())
        moments = " and ".join(f"{delay:.2f}" for delay in delays)
        name = f"{command.name}, {sent.name} after {moments} of {seconds:.2f} s"
        return self._continued("random kills", name, command, cwd, ends, wanted)

    def _continued(
        self,
        kind: str,
        name: str,
        command: Command,
        cwd: Path,
        ends: list[Ended],
        wanted: str,
        wrong: str = "",
    ) -> Row:
        """The row of a command that was disturbed, and given again at last."""
        lost = ""
        if ends[-1].code != 0:
            lost = f"given again: {_last(ends[-1])}"
        elif (found := _result(command, cwd)) != wanted:
            lost = f"another result than undisturbed: {found[:40]}"
        elif left := [path.name for path in cwd.rglob(".*") if path.name.endswith(UNFINISHED)]:
            wrong = wrong or f"left behind: {', '.join(left)}"
        codes = ", then ".join(str(ended.code) for ended in ends)
        return Row(kind, name, codes, any(ended.traceback for ended in ends), lost, wrong)

    def full_disks(self) -> Iterator[str]:
        """Names of the trials of a full disk, `command/write`: every write of a command, or some of very many."""
        # In turns, so that a run that is stopped has tried something of every command.
        for row in zip_longest(*map(self._points, self.commands)):
            yield from (f"{name}/{point}" for name, point in zip(self.commands, row, strict=True) if point)

    def _points(self, name: str) -> Iterator[int]:
        """The writes of a command from which on the disk is full."""
        writes = self.reference(self.commands[name])[2]
        count = min(writes, MOST_WRITES)
        yield from sorted({1 + round((writes - 1) * part / max(1, count - 1)) for part in range(count)})

    def full_disk(self, name: str) -> Row:
        """A command whose disk is full from some write on; given again with room, it comes to its result."""
        command, point = self.commands[name.rpartition("/")[0]], int(name.rpartition("/")[2])
        wanted, _, writes = self.reference(command)
        logs, cwd = self._fresh()
        first = start(command.arguments(cwd / OUTPUT), logs / "full", cwd, point).wait()
        again = start(command.arguments(cwd / OUTPUT), logs / "again", cwd).wait()
        # Fewer writes than in the reference: the disk was never full.
        wrong = "" if first.refused or first.writes < point else f"not refused: {first.code} {_last(first)}"
        named = f"{command.name}, from write {point} of {writes}"
        return self._continued("full disk", named, command, cwd, [first, again], wanted, wrong)

    def replaced(self, number: int) -> Row:
        """`--force` over a finished result, stopped by a kill or a full disk: the old result is still there."""
        draw = random.Random(1000 + number)
        forced = [command for command in self.commands.values() if command.forced]
        command = forced[number % len(forced)]
        wanted, seconds, writes = self.reference(command)
        logs, cwd = self._fresh()
        arguments = command.arguments(cwd / OUTPUT)
        made = start(arguments, logs / "made", cwd).wait()
        if made.code:
            return Row("replacing", command.name, str(made.code), made.traceback, lost=_last(made))
        another = [*arguments, *command.forced, "--force"]
        if number // len(forced) % 2:
            point = draw.randint(1, max(1, writes - 2))
            stopped, how = start(another, logs / "full", cwd, point).wait(), f"disk full at write {point}"
        else:
            delay = draw.uniform(0.05, 0.9 * seconds)
            running = start(another, logs / "killed", cwd)
            time.sleep(delay)
            running.kill(signal.SIGKILL)
            stopped, how = running.wait(), f"SIGKILL after {delay:.2f} s"
        lost = ""
        if stopped.code and (found := _result(command, cwd)) != wanted:
            lost = f"the old result is gone: {found[:60]}"
        again = start(another, logs / "again", cwd).wait()
        if again.code:
            lost = lost or f"given again: {_last(again)}"
        elif _result(command, cwd) == wanted:
            lost = lost or "the new result is not there"
        codes = f"{stopped.code}, then {again.code}"
        return Row(
            "replacing", f"{command.name}, {how}", codes, stopped.traceback or again.traceback, lost=lost
        )

    def edit(self, number: int) -> Row:
        """One edit of a plan: `verify` refuses it or trusts its key, and networks cut from it are as if unedited."""
        logs, cwd = self._fresh()
        cwd.mkdir(parents=True)
        content = json.loads(self.shop.plan.read_text())
        path, value = _edited(content, random.Random(number))
        (cwd / "plan.json").write_text(json.dumps(content))
        verified = start(["verify", "plan.json", *self.shop.net, "--json"], logs, cwd).wait()
        pattern = ".".join("*" if isinstance(key, int) else key for key in path)
        edit, wrong = f"{pattern} = {value!r}", ""
        if verified.code == 0:
            trusted = json.loads(verified.out)["trusted"]
            if not any(
                f"{pattern}.".startswith(f"{key}.") or f"{key}.".startswith(f"{pattern}.") for key in trusted
            ):
                wrong = f"verify passes {edit}"
        ends = [verified]
        for name in ("slim", "finetune"):
            if name not in self._cuts:
                self._cuts[name] = self._cut(name, self.shop.plan, *self._fresh())[1]
            ended, made = self._cut(name, cwd / "plan.json", logs, cwd)
            ends.append(ended)
            if ended.code == 0 and made != self._cuts[name]:
                wrong = wrong or f"{name} takes {edit}"
        bad = any(ended.traceback for ended in ends)
        codes = ", ".join(str(ended.code) for ended in ends)
        return Row("edits of a plan", edit[:90], codes, bad, wrong=wrong)

    def _cut(self, name: str, plan: Path, logs: Path, cwd: Path) -> tuple[Ended, str]:
        """What `slim` or `finetune` makes of a plan: how it ended, and the digest of the weights."""
        arguments = self.commands[name].arguments(cwd / name)
        arguments[1] = str(plan)
        ended = start(arguments, logs / name, cwd).wait()
        return ended, "" if ended.code else digest(cwd / name / "model.safetensors")

    def damaged(self, number: int) -> Row:
        """A damaged or hostile file for a command that reads it: refused, or the right result all the same."""
        draw, shop = random.Random(number), self.shop
        logs, cwd = self._fresh()
        cwd.mkdir(parents=True)
        shutil.copytree(shop.slim, cwd / "slim")
        shutil.copy(shop.instances[0], cwd / "instance.json")
        shutil.copy(shop.folder / "times.json", cwd / "times.json")
        shutil.copy(shop.folder / "run.toml", cwd / "run.toml")
        shutil.copy(shop.parent, cwd / "parent.safetensors")
        net = shop.net[:2]
        plain = ["--flops-budget", "0.5", "--importance", "l1"]
        targets: list[tuple[str, list[str]]] = [
            ("slim/model.safetensors", ["evaluate", "slim", *net, *shop.data]),
            ("slim/plan.json", ["evaluate", "slim", *net, *shop.data]),
            ("slim/config.json", ["export", "slim", *net, "--format", "pt2", "-o", "out"]),
            ("instance.json", ["solve", "instance.json"]),
            ("times.json", ["plan", *shop.net, *shop.shape, "--latency-budget", "0.5", "--importance", "l1",
                            "--latency-table", "times.json"]),
            ("run.toml", ["plan", "--config", "run.toml", *plain, *shop.net, *shop.shape]),
            ("parent.safetensors", ["plan", *net, "--checkpoint", "parent.safetensors", *shop.shape, *plain]),
        ]  # fmt: skip
        name, arguments = targets[number % len(targets)]
        what = _damage(cwd / name, number // len(targets), draw)
        ended = start(arguments, logs, cwd).wait()
        guarded = name.startswith("slim/") or (name.endswith("safetensors") and what != "a bit")
        wrong = f"{name} with {what} is taken" if ended.code == 0 and guarded else ""
        return Row("damaged files", f"{name}: {what}", _last(ended)[:100], ended.traceback, wrong=wrong)

    def damaged_midway(self, number: int) -> Row:
        """A file of a command's own, spoiled after a kill: refused by name, or the result is that of no damage."""
        draw = random.Random(number)
        name, asked = MIDWAY[number % len(MIDWAY)]
        command, kind = self.commands[asked], number // len(MIDWAY)
        wanted, seconds, _ = self.reference(command)
        logs, cwd = self._fresh()
        running = start(command.arguments(cwd / OUTPUT), logs / "killed", cwd)
        while running.goes_on() and not list(cwd.glob(OUTPUT + name)):
            time.sleep(0.002)
        time.sleep(draw.uniform(0, seconds / 10))
        running.kill(signal.SIGKILL)
        running.wait()
        found = sorted(cwd.glob(OUTPUT + name))
        if not found:
            return Row("damaged midway", f"{command.name}, {name}: never there", "", wrong="not tried")
        what = _damage(found[-1], kind, draw)
        ended = start(command.arguments(cwd / OUTPUT), logs / "again", cwd).wait()
        wrong = ""
        if ended.code == 0 and (result := _result(command, cwd)) != wanted:
            wrong = f"goes on from {name} with {what}: {result[:40]}"
        label = f"{command.name}, {name or OUTPUT}: {what}"
        return Row("damaged midway", label, _last(ended)[:100], ended.traceback, wrong=wrong)

    def pair(self, number: int) -> Row:
        """Two commands at once in one output: the same, or different ones."""
        names = list(self.commands)
        pairs = [*((name, name) for name in names), *DIFFERENT]
        both = [self.commands[name] for name in pairs[number]]
        wanted = [self.reference(command)[0] for command in both]
        draw = random.Random(number)
        delay = draw.uniform(0, self.reference(both[0])[1]) if number >= len(names) else 0.0
        logs, cwd = self._fresh()
        running = [start(both[0].arguments(cwd / OUTPUT), logs / "0", cwd)]
        time.sleep(delay)
        running.append(start(both[1].arguments(cwd / OUTPUT), logs / "1", cwd))
        ended = [one.wait() for one in running]
        told = "; ".join(map(_last, ended))
        lost = "" if any(one.code == 0 for one in ended) else f"neither is done: {told}"
        for command, one, whole in zip(both, ended, wanted, strict=True):
            if one.code == 0 and _result(command, cwd) != whole:
                lost = f"{command.name} says it is done, and is not: {told}"
        bad = any(one.traceback for one in ended) or not all(one.code == 0 or one.refused for one in ended)
        name = " and ".join(pairs[number]) + (f", {delay:.2f} s later" if delay else "")
        return Row("two at once", name, ", ".join(str(one.code) for one in ended), bad, lost=lost)

    def image(self, number: int) -> Row:
        """An odd image among the others, for `evaluate`, `plan` or `finetune`."""
        logs, cwd = self._fresh()
        shutil.copytree(self.shop.images, cwd / "images")
        kinds = sorted(ODD)
        what, task = kinds[number % len(kinds)], number // len(kinds)
        part = "test" if task == 0 else "train"
        readable = ODD[what](cwd / "images" / part / "1" / "odd.png")
        data = ["--data", "images"]
        arguments = [
            ["evaluate", *self.shop.net, *self.shop.shape, *data, "--json", *self.shop.cpu],
            [*self.shop.planning("--importance", "taylor", "-o", "plan.json"), *data, "--json"],
        ][task]
        if task:
            arguments = [part for part in arguments if part != str(self.shop.images)]
            arguments.remove("--data")
        ended = start(arguments, logs, cwd).wait()
        wrong = ""
        if ended.code == 0:
            told = json.loads(ended.out)
            counted = told["unreadable"] if task == 0 else (told["data"] or {}).get("unreadable")
            named = "odd.png" in ended.out + ended.err
            drawn = task == 0 or named  # scoring may not have drawn it
            if drawn and bool(counted) == readable:
                wrong = f"readable is {readable}, told: {counted}"
        else:
            wrong = f"ended with {ended.code}: {_last(ended)}"
        return Row("odd images", f"{what}, {arguments[0]}", str(ended.code), ended.traceback, wrong=wrong)


def _result(command: Command, cwd: Path) -> str:
    """A command's result, or why there is none."""
    try:
        return command.result(cwd / OUTPUT)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"nothing ({error!r})"


def _last(ended: Ended) -> str:
    lines = (ended.err.strip() or ended.out.strip()).splitlines()
    return f"{ended.code} {lines[-1][:160] if lines else ''}"


def _edited(content: Any, draw: random.Random) -> tuple[list[str | int], object]:
    """Change one leaf, or drop one entry, of parsed JSON; where and to what."""
    path: list[str | int] = []
    place, parent = content, content
    while isinstance(place, (dict, list)) and place:
        parent = place
        path.append(draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place)))
        place = place[path[-1]]
        if isinstance(place, list) and len(path) > 2 and draw.random() < 0.3:
            break
    options: list[object] = [None, "x", -1, 10**18, 1e308, [], True]
    if isinstance(place, bool):
        options.append(not place)
    elif isinstance(place, int | float):
        options += [place + 1, place - 1, str(place)]
    elif isinstance(place, list) and place:
        options += [place[:-1], place[::-1], [*place, place[-1]]]
    value = draw.choice([option for option in options if option != place or type(option) is not type(place)])
    parent[path[-1]] = value
    return path, value


def _damage(path: Path, kind: int, draw: random.Random) -> str:
    """Spoil a file; what was done, in words."""
    content = bytearray(path.read_bytes())
    if kind % 9 == 0:
        path.write_bytes(content[: len(content) // 2])
        return "half of it"
    if kind % 9 == 1:
        content[draw.randrange(len(content) // 2, len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        return "a bit"
    others: list[tuple[str, bytes]] = [
        ("nothing", b""),
        ("zeros", bytes(len(content))),
        ("brackets", b"[" * 2_000_000),
        ("a number of 5,000 digits", b'{"schema_version": ' + b"9" * 5000 + b"}"),
        ("control characters", b'{"\x1b[31mred": "\xe2\x80\xae"}'),
        ("a pickle", b"\x80\x04cposix\nsystem\n(S'touch owned'\ntR."),
        ("empty lists", b'{"groups": [' + b"[]," * 3_000_000 + b"[]]}"),
    ]
    name, spoiled = others[kind % 9 - 2]
    path.write_bytes(spoiled)
    return name


def _noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(colours).convert(mode)


def _saved(image: Image.Image, path: Path, kind: str = "PNG") -> bool:
    image.save(path, kind)
    return True


def _bytes(content: bytes, path: Path) -> bool:
    path.write_bytes(content)
    return False


def _cut(path: Path, kind: str) -> bool:
    _noise(64, 64).save(path, kind)
    return _bytes(path.read_bytes()[:400], path)


def _made(path: Path, make: Any) -> bool:
    make(path)
    return False


ODD = {
    "CMYK JPEG": lambda path: _saved(_noise(16, 16, "CMYK"), path, "JPEG"),
    "16-bit grey": lambda path: _saved(Image.fromarray(np.full((8, 8), 40000, np.uint16)), path),
    "palette": lambda path: _saved(_noise(8, 8, "P"), path),
    "grey with alpha": lambda path: _saved(_noise(8, 8, "LA"), path),
    "one bit": lambda path: _saved(_noise(8, 8, "1"), path),
    "one pixel": lambda path: _saved(_noise(1, 1), path),
    "1 x 3000": lambda path: _saved(_noise(1, 3000), path),
    "JPEG of 36 megapixels": lambda path: _saved(Image.new("RGB", (6000, 6000)), path, "JPEG"),
    "PNG of 13000 x 13000": lambda path: _saved(Image.new("1", (13000, 13000)), path),
    "GIF": lambda path: _saved(_noise(8, 8, "P"), path, "GIF"),
    "TIFF of floats": lambda path: not _saved(Image.fromarray(np.ones((8, 8), np.float32)), path, "TIFF"),
    "32-bit whole numbers": lambda path: not _saved(Image.fromarray(np.ones((8, 8), np.int32)), path, "TIFF"),
    "PNG of 20000 x 20000": lambda path: not _saved(Image.new("1", (20000, 20000)), path),
    "nothing": lambda path: _bytes(b"", path),
    "text": lambda path: _bytes(b"no image", path),
    "half a PNG": lambda path: _cut(path, "PNG"),
    "half a JPEG": lambda path: _cut(path, "JPEG"),
    "only a header": lambda path: _bytes(b"\x89PNG\r\n\x1a\n" + bytes(40), path),
    "a pipe": lambda path: _made(path, os.mkfifo),
    "a link to nothing": lambda path: _made(path, lambda place: place.symlink_to("absent.png")),
}
"""Makes an image file, and says whether it can be read."""

__all__ = ["ODD", "Row", "Trials", "digest"]
