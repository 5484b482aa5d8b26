"""The trials of every kind. A trial gives a row: what was done, how it ended, and whether it was survived."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.faults.commands import Command, Workshop
from benchmarks.faults.harness import Ended, digest, start

OUTPUT = "out.json"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FULL_POINTS = 12
"""Writes of a command from which on the disk is full: the first, the last, and some between."""


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
        self._references: dict[str, tuple[str, float, int]] = {}
        self._number = 0

    def _fresh(self) -> tuple[Path, Path]:
        """A folder for a trial's logs, and one in which it runs."""
        self._number += 1
        place = self.folder / f"{self._number:04d}"
        shutil.rmtree(place, ignore_errors=True)
        return place / "logs", place / "cwd"

    def _reference(self, command: Command) -> tuple[str, float, int]:
        """Result, seconds and writes of an undisturbed run."""
        if command.name not in self._references:
            logs, cwd = self._fresh()
            ended = start(command.arguments(cwd / OUTPUT), logs, cwd, full_at=0).wait()
            if ended.code != 0:
                raise RuntimeError(f"{command.name} fails undisturbed: {ended.err[-800:]}")
            self._references[command.name] = command.result(cwd / OUTPUT), ended.seconds, ended.writes
        return self._references[command.name]

    def kills(self, number: int) -> Row:
        """A resumable command, killed at a random moment, and given again until it is done."""
        draw = random.Random(number)
        command = [command for command in self.commands.values() if command.resumes][number % 7]
        wanted, seconds, _ = self._reference(command)
        logs, cwd = self._fresh()
        sent, told = SIGNALS[(number // 7) % 3], ""
        running = start(command.arguments(cwd / OUTPUT), logs, cwd)
        delay = draw.uniform(0.02, seconds)
        while time.monotonic() - running.begun < delay:
            time.sleep(0.002)
        running.kill(sent)
        first = running.wait()
        again = start(command.arguments(cwd / OUTPUT), logs, cwd).wait()
        if again.code != 0:
            told = f"given again: {_last(again)}"
        elif command.result(cwd / OUTPUT) != wanted:
            told = "another result than undisturbed"
        bad = first.traceback or again.traceback
        name = f"{command.name}, {sent.name} after {delay:.2f} of {seconds:.2f} s"
        return Row("random kills", name, f"{first.code}, then {again.code}", bad, lost=told)

    def full_disks(self) -> list[str]:
        """Names of the trials of a full disk, `command/part`: after which part of its writes the disk is full."""
        return [f"{name}/{part}" for part in range(FULL_POINTS) for name in self.commands]

    def full_disk(self, name: str) -> Row:
        """A command whose disk is full from some write on; given again with room, it comes to its result."""
        command = self.commands[name.rpartition("/")[0]]
        wanted, _, writes = self._reference(command)
        logs, cwd = self._fresh()
        point = 1 + round((writes - 1) * int(name.rpartition("/")[2]) / (FULL_POINTS - 1))
        first = start(command.arguments(cwd / OUTPUT), logs, cwd, point).wait()
        again = start(command.arguments(cwd / OUTPUT), logs, cwd).wait()
        told = wrong = ""
        if again.code != 0:
            told = f"given again: {_last(again)}"
        elif command.result(cwd / OUTPUT) != wanted:
            told = "another result than undisturbed"
        if not first.refused:
            wrong = f"not refused: {first.code} {_last(first)}"
        return Row(
            "full disk",
            name,
            f"{first.code}, then {again.code}",
            first.traceback or again.traceback,
            told,
            wrong,
        )

    def edit(self, number: int) -> Row:
        """One edit of a plan; `verify` refuses it, or lists the key as taken on trust."""
        logs, cwd = self._fresh()
        cwd.mkdir(parents=True)
        content = json.loads(self.shop.plan.read_text())
        path, value = _edited(content, random.Random(number))
        (cwd / "plan.json").write_text(json.dumps(content))
        verified = start(["verify", "plan.json", *self.shop.net, "--json"], logs, cwd).wait()
        small = start(["slim", "plan.json", *self.shop.net, "-o", "small"], logs, cwd).wait()
        pattern = ".".join("*" if isinstance(key, int) else key for key in path)
        wrong = ""
        if verified.code == 0:
            trusted = json.loads(verified.out)["trusted"]
            if not any(
                f"{pattern}.".startswith(f"{key}.") or f"{key}.".startswith(f"{pattern}.") for key in trusted
            ):
                wrong = f"verify passes {pattern} = {value!r}"
        bad = verified.traceback or small.traceback
        return Row(
            "edits of a plan",
            f"{pattern} = {value!r}"[:90],
            f"{verified.code}, {small.code}",
            bad,
            wrong=wrong,
        )

    def damaged(self, number: int) -> Row:
        """A damaged or hostile file for a command that reads it."""
        draw, shop = random.Random(number), self.shop
        logs, cwd = self._fresh()
        cwd.mkdir(parents=True)
        shutil.copytree(shop.slim, cwd / "slim")
        shutil.copy(shop.instances[0], cwd / "instance.json")
        shutil.copy(shop.folder / "times.json", cwd / "times.json")
        shutil.copy(shop.folder / "run.toml", cwd / "run.toml")
        shutil.copy(shop.parent, cwd / "parent.safetensors")
        net = shop.net[:2]
        targets: list[tuple[str, list[str]]] = [
            ("slim/model.safetensors", ["evaluate", "slim", *net, *shop.data]),
            ("slim/plan.json", ["evaluate", "slim", *net, *shop.data]),
            ("slim/config.json", ["export", "slim", *net, "--format", "pt2", "-o", "out"]),
            ("instance.json", ["solve", "instance.json"]),
            (
                "times.json",
                [
                    *("plan", *shop.net, *shop.shape, "--latency-budget", "0.5", "--importance", "l1"),
                    *("--latency-table", "times.json"),
                ],
            ),
            ("run.toml", ["plan", "--config", "run.toml", "--flops-budget", "0.5", *shop.net, *shop.shape]),
            ("parent.safetensors", ["plan", *net, "--checkpoint", "parent.safetensors", *shop.shape,
                                    "--flops-budget", "0.5", "--importance", "l1"]),
        ]  # fmt: skip
        name, arguments = targets[number % len(targets)]
        what = _damage(cwd / name, number // len(targets), draw)
        ended = start(arguments, logs, cwd).wait(60)
        guarded = name.startswith("slim/") or (name.endswith("safetensors") and what != "a bit")
        wrong = f"{name} with {what} is taken" if ended.code == 0 and guarded else ""
        return Row("damaged files", f"{name}: {what}", _last(ended)[:100], ended.traceback, wrong=wrong)

    def pair(self, number: int) -> Row:
        """Two of the same command at once in one output."""
        command = list(self.commands.values())[number]
        wanted = self._reference(command)[0]
        logs, cwd = self._fresh()
        both = [start(command.arguments(cwd / OUTPUT), logs / str(i), cwd) for i in range(2)]
        ended = [one.wait() for one in both]
        codes = sorted(one.code for one in ended)
        result = command.result(cwd / OUTPUT) if codes[0] == 0 else "nothing"
        lost = "" if result == wanted else f"{result[:12]}: {'; '.join(map(_last, ended))}"
        bad = any(one.traceback for one in ended) or not all(one.code == 0 or one.refused for one in ended)
        return Row("two at once", command.name, ", ".join(map(str, codes)), bad, lost=lost)

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
        ended = start(arguments, logs, cwd).wait(60)
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
