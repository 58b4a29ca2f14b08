"""A comparison as people and machines read it: lines, Markdown for a pull request, JUnit's XML."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from pipeline.bundle.markdown import inline, table
from pipeline.comparison.changes import Change, Comparison, Outcome
from pipeline.report import numbers

MARKS: dict[Outcome, str] = {"worse": "✗", "better": "✓", "inconclusive": "?", "other": "~", "same": "·"}
"""From what is looked at first to what is not."""
_BYTES = ("size", "memory")


def headline(comparison: Comparison) -> str:
    """One sentence."""
    counts = {outcome: sum(change.outcome == outcome for change in comparison.changes) for outcome in MARKS}
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return f"{comparison.recipe}: {comparison.after} against {comparison.before}: {said}"


def in_order(comparison: Comparison) -> list[Change]:
    """What became worse first, what stayed last."""
    return sorted(comparison.changes, key=lambda change: [*MARKS].index(change.outcome))


def cells(change: Change) -> tuple[str, str, str, str, str]:
    """Kind, what, then, now, and what may be said of the difference."""
    return change.kind, change.what, _value(change, change.before), _value(change, change.after), difference(change)


def difference(change: Change) -> str:
    """``1.21 [1.15, 1.28] times, against eager, noise 3.0%: worse``."""
    outcome = change.outcome if change.why is None else f"{change.outcome} ({change.why})"
    if change.ratio is None:
        return outcome
    if change.kind == "size":
        return f"{change.ratio.value:.2f} times: {outcome}"
    against = "" if change.kind in _BYTES else ", against eager"
    noise = f", noise {numbers.share(change.noise_ratio)}" if change.kind == "time" else ""
    return f"{change.ratio.spelled()} times{against}{noise}: {outcome}"


def as_markdown(comparison: Comparison) -> str:
    """For a pull request: what changed as a table, what stayed folded away."""
    changed = [change for change in in_order(comparison) if change.outcome != "same"]
    same = [change for change in in_order(comparison) if change.outcome == "same"]
    lines = [f"**{inline(headline(comparison))}**", ""]
    notes = [f"* not compared: {inline(why)}" for why in comparison.refused]
    notes += [f"* {inline(remark)}" for remark in comparison.remarks]
    lines += [*notes, ""] if notes else []
    lines += [*_table(changed), ""] if changed else ["Nothing changed.", ""]
    if same:
        lines += [f"<details><summary>{len(same)} unchanged</summary>", "", *_table(same), "", "</details>", ""]
    return "\n".join(lines)


def as_junit(comparison: Comparison) -> bytes:
    """A test case for each thing: what became worse fails, what is inconclusive or not compared is skipped."""
    suite = ElementTree.Element("testsuite", name=f"torchstone compare {comparison.recipe}")
    for change in comparison.changes:
        case = _case(suite, change.kind, change.what or comparison.recipe)
        if change.outcome == "worse":
            ElementTree.SubElement(case, "failure", message=": ".join(filter(None, (change.what, _sentence(change)))))
        elif change.outcome == "inconclusive":
            ElementTree.SubElement(case, "skipped", message=_sentence(change))
    for why in comparison.refused:
        ElementTree.SubElement(_case(suite, "refused", why), "skipped", message=why)
    cases = suite.findall("testcase")
    failed, skipped = (sum(case.find(kind) is not None for case in cases) for kind in ("failure", "skipped"))
    for name, count in (("tests", len(cases)), ("failures", failed), ("errors", 0), ("skipped", skipped)):
        suite.set(name, str(count))
    whole: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return whole


def _case(suite: ElementTree.Element, kind: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=f"torchstone.{kind}", name=name)


def _sentence(change: Change) -> str:
    _, _, before, after, said = cells(change)
    return f"{change.kind} was {before}, and is {after} ({said})"


def _table(changes: list[Change]) -> Iterator[str]:
    return table(
        ("", "kind", "what", "before", "after", ""), [(MARKS[it.outcome], *map(inline, cells(it))) for it in changes]
    )


def _value(change: Change, value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return numbers.size(int(value)) if change.kind in _BYTES else numbers.seconds(value)
