"""The archives of a bundle: one layout, in which all readers see the same, and every other is refused."""

from __future__ import annotations

import io
import struct
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch.export.pt2_archive import PT2ArchiveReader

from pipeline.verifier.archives import scan_archive
from pipeline.verifier.needs import package_needs
from pipeline.verifier.outcome import Refused
from tests.archives.forgeries import FORGERIES, INPUTS, beside, place_of, small_program
from tests.archives.pack import Part, pack, parts_of

LONGER_THAN_HERE = b"x" * 100


@pytest.fixture(scope="module")
def program() -> bytes:
    return small_program()


def _changed(**changes: object) -> Callable[[list[Part]], bytes]:
    """The member with the example inputs is otherwise."""

    def make(parts: list[Part]) -> bytes:
        place = place_of(parts, INPUTS)
        changed = replace(parts[place], **changes)  # type: ignore[arg-type]
        return pack([*parts[:place], changed, *parts[place + 1 :]])

    return make


def _added(name: str | bytes) -> Callable[[list[Part]], bytes]:
    return lambda parts: pack([*parts, Part(name=beside(parts, name), data=b"x")])


def _hidden(parts: list[Part]) -> bytes:
    """A member that no directory lists, between two that it does."""
    hidden = pack([Part(name=parts[0].name, data=b"x")])
    return pack([replace(parts[0], after=hidden[: hidden.index(b"PK\1\2")]), *parts[1:]])


def _pointer(parts: list[Part]) -> bytes:
    whole = bytearray(pack(parts))
    struct.pack_into("<Q", whole, len(whole) - 42 + 8, 0)
    return bytes(whole)


LAYOUT, TWICE, OUTSIDE = (
    "is truncated or no archive as torch writes it",
    "one file to some readers",
    "unpacked elsewhere",
)
ZIPS: dict[str, tuple[Callable[[list[Part]], bytes], str]] = {
    "nothing": (lambda parts: b"", LAYOUT),
    "no archive": (lambda parts: b"PK" + bytes(200), LAYOUT),
    "cut off": (lambda parts: pack(parts)[:-7], LAYOUT),
    "bytes before": (lambda parts: pack(parts, before=LONGER_THAN_HERE), LAYOUT),
    "bytes after": (lambda parts: pack(parts, after=LONGER_THAN_HERE), LAYOUT),
    "a comment": (lambda parts: pack(parts, comment=LONGER_THAN_HERE), LAYOUT),
    "an archive before": (lambda parts: pack(parts, before=pack(parts)), LAYOUT),
    "an archive after": (lambda parts: pack(parts, after=pack(parts)), LAYOUT),
    "a member that is not listed": (_hidden, LAYOUT),
    "a pointer to another end": (_pointer, LAYOUT),
    "another name in its header": (_changed(header_name=b"archive/other"), LAYOUT),
    "a size of less": (_changed(told_bytes=3), LAYOUT),
    "a size beyond the file": (_changed(told_bytes=0xFFFFFFF0), LAYOUT),
    "a size that does not follow": (_changed(told_bytes=0xFFFFFFFF), LAYOUT),
    "another member's place": (_changed(told_offset=0), LAYOUT),
    "a place beyond the file": (_changed(told_offset=0xFFFFFFF0), LAYOUT),
    "encrypted": (_changed(flags=0x809), LAYOUT),
    "its size in its header": (_changed(flags=0x800), LAYOUT),
    "packed in an unknown way": (_changed(method=12), LAYOUT),
    "a comment of its own": (_changed(comment=b"x"), LAYOUT),
    "a name that is no text": (_added(b"\xff"), LAYOUT),
    "compressed": (_changed(method=zipfile.ZIP_DEFLATED), "compressed, torch stores it as it is"),
    "twice": (_added(INPUTS), TWICE),
    "in other case": (_added(INPUTS.upper()), TWICE),
    "in other letters": (_added(INPUTS.replace("s", "\N{LATIN SMALL LETTER LONG S}")), TWICE),
    "zip-slip": (_added("../../evil.so"), OUTSIDE),
    "a null in its name": (_added(f"{INPUTS}\0.json"), OUTSIDE),
    "an absolute name": (lambda parts: pack([*parts, Part(name=b"/etc/cron.d/evil", data=b"x")]), OUTSIDE),
    "a folder": (lambda parts: pack([*parts, Part(name=b"archive/data/", data=b"")]), OUTSIDE),
    "beside the folder": (lambda parts: pack([*parts, Part(name=b"other/data", data=b"x")]), "outside of its folder"),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_an_archive_that_torch_does_not_write_like_that_is_refused(kind: str, program: bytes, tmp_path: Path) -> None:
    make, reason = ZIPS[kind]
    (tmp_path / "model.pt2").write_bytes(make(parts_of(program)))
    for read in (scan_archive, package_needs):
        with pytest.raises(Refused, match=reason):
            read(tmp_path / "model.pt2")


def _views(archive: bytes) -> list[bytes | None]:
    """The example inputs as Python's reader and as torch's take them; None for one that finds none."""
    views: list[bytes | None] = []
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as members:
            views.append(members.read(f"archive/{INPUTS}"))
    except (zipfile.BadZipFile, RuntimeError, KeyError):
        views.append(None)
    try:
        views.append(PT2ArchiveReader(io.BytesIO(archive)).read_bytes(INPUTS))
    except RuntimeError:
        views.append(None)
    return views


def test_readers_disagree_on_a_header_of_another_name(program: bytes) -> None:
    """The twin: why there is one layout. Python's reader takes nothing of it, torch's does not look."""
    python, torchs = _views(ZIPS["another name in its header"][0](parts_of(program)))
    assert (python, bool(torchs)) == (None, True)


@pytest.mark.parametrize(
    "name", ["a member twice, the other first", "a member in other case beside it", "a second directory"]
)
def test_readers_disagree_on_programs_with_code(name: str, program: bytes, tmp_path: Path) -> None:
    """Python's reader sees the harmless member, torch's the pickle with the code."""
    forged = FORGERIES[name].of(program, tmp_path / "ran")
    assert [b"mkdir" in (view or b"") for view in _views(forged)] == [False, True]
    (tmp_path / "model.pt2").write_bytes(forged)
    with pytest.raises(Refused):
        scan_archive(tmp_path / "model.pt2")


def test_readers_agree_on_what_torch_writes(program: bytes) -> None:
    assert pack(parts_of(program)) == program
    python, torchs = _views(program)
    assert python == torchs
    assert python


def test_an_archive_that_grows_too_much_is_refused(tmp_path: Path) -> None:
    part = Part(name=b"model/code/a.py", data=bytes(100 << 20), method=zipfile.ZIP_DEFLATED)
    (tmp_path / "model.ts").write_bytes(pack([part]))
    with pytest.raises(Refused, match="would unpack to"):
        scan_archive(tmp_path / "model.ts")


def _tar(*members: tarfile.TarInfo) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tarfile.open(path, "w") as archive:
            for member in members:
                archive.addfile(member)

    return make


def _link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


_ACCENTED = "\N{LATIN SMALL LETTER E WITH ACUTE}"
TARS: dict[str, tuple[Callable[[Path], object], str]] = {
    "tar-slip": (_tar(tarfile.TarInfo("../evil.py")), OUTSIDE),
    "a link": (_tar(_link("a", "/etc")), "not a regular file"),
    "no tar": (lambda path: path.write_bytes(b"x" * 2000), "truncated or no archive"),
    "twice": (_tar(tarfile.TarInfo("a"), tarfile.TarInfo("./a")), TWICE),
    "in other case": (_tar(tarfile.TarInfo("a/b"), tarfile.TarInfo("a/B")), TWICE),
    "spelled otherwise": (
        _tar(tarfile.TarInfo(_ACCENTED), tarfile.TarInfo(unicodedata.normalize("NFD", _ACCENTED))), TWICE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TARS)
def test_a_hostile_tar_is_refused(kind: str, tmp_path: Path) -> None:
    make, reason = TARS[kind]
    make(tmp_path / "cache.tar")
    with pytest.raises(Refused, match=reason):
        scan_archive(tmp_path / "cache.tar")


@pytest.mark.parametrize(
    "name", ["torchscript/model.ts", "exported/model.pt2", "aotinductor/model.pt2", "compile/cache.tar"]
)
def test_what_torch_itself_packs_is_not(name: str, built: Path) -> None:
    scan_archive(built / "artifacts" / name)


# --- what a package says of itself ------------------------------------------------------------------------------------

STATED, IN_ITS_PLACE = b'{"AOTI_MACHINE": "m68k"}', "data/aotinductor/model/a.wrapper_metadata.json"


def _package(*members: tuple[str, bytes]) -> bytes:
    return pack([Part(name=f"model/{name}".encode(), data=data) for name, data in members])


def test_a_package_is_believed_where_torch_reads_it(tmp_path: Path) -> None:
    kernels = ("data/aotinductor/model/b.kernel_metadata.json", b"not read")
    (tmp_path / "model.pt2").write_bytes(_package((IN_ITS_PLACE, STATED), kernels))
    assert package_needs(tmp_path / "model.pt2") == {"machine": "m68k"}
    (tmp_path / "model.pt2").write_bytes(_package(kernels))
    assert package_needs(tmp_path / "model.pt2") == {}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([(IN_ITS_PLACE, STATED), (IN_ITS_PLACE.replace("/a.", "/b."), b"{}")], "must say once"),
        ([(IN_ITS_PLACE.replace("/model/", "/model2/"), STATED)], "where torch reads it"),
        ([("extra/a.wrapper_metadata.json", STATED)], "where torch reads it"),
        ([(IN_ITS_PLACE, b"{")], "is not JSON"),
        ([(IN_ITS_PLACE, b"\xff")], "is not JSON"),
        ([(IN_ITS_PLACE, b"[1]")], "must be an object"),
        ([(IN_ITS_PLACE, b" " * (2 << 20))], "must say once"),
    ],
)
def test_a_package_that_says_otherwise_is_refused(
    members: list[tuple[str, bytes]], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "model.pt2").write_bytes(_package(*members))
    with pytest.raises(Refused, match=reason):
        package_needs(tmp_path / "model.pt2")
