"""What became of the last requests: so that it can be told afterwards what was pulled, from where, and why.

A journal listens at the HTTP edge (`mirror.trail.Observer`) and passes on what it hears. Of each answer it keeps an
entry and writes one line to the log: no credentials, no bytes. It also knows the answers that are being given now.

It keeps the latest `RECENT_MAX` entries of content in their order, and for each object and tag that the runtime asked
for the last one, of `ENTRIES_MAX`.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.source import Request
    from mirror.trail import Answer, Observer, Step

log = logging.getLogger(__name__)

ENTRIES_MAX: Final = 2048
"""About 2 MB. A pull of an image makes about ten."""
RECENT_MAX: Final = 512
MESSAGE_CHARACTERS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer: when (Unix time), what, after how many seconds it began, who gave the content, or why nobody did.

    `number` grows by one with each entry of content. `face` is `client` or `peer`; `reader` names the member that
    asked. `steps` are the sources that were left, in words. `duration_s` and `bytes` are those of the whole answer.
    """

    at: float
    method: str
    status: int
    seconds: float
    source: str = ""
    holder: str = ""
    message: str = ""
    number: int = 0
    id: str = ""
    face: str = "client"
    reader: str = ""
    repository: str = ""
    kind: str = ""
    reference: str = ""
    digest: str = ""
    size: int | None = None
    bytes: int = 0
    duration_s: float = 0.0
    complete: bool = False
    steps: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The entry in one line for people."""
        return _line(self)


class Journal:
    """The entries, and the answers that are being given now."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], Entry] = OrderedDict()
        self._recent: deque[Entry] = deque(maxlen=RECENT_MAX)
        self._running: dict[Answer, str] = {}
        self._number = 0

    def face(self, name: str, then: Observer) -> FaceJournal:
        """The observer of one HTTP face, `client` or `peer`; it passes on what it hears."""
        return FaceJournal(self, name, then)

    def last(self, registry: str, path: str) -> Entry | None:
        """The last answer about `<name>/manifests/<reference>` or `<name>/blobs/<digest>` of a registry."""
        return self._last.get((registry, path))

    def recent(self, after: int = 0, limit: int = RECENT_MAX) -> list[Entry]:
        """The latest entries of content, the newest first, as far as they are newer than the number `after`."""
        return list(islice((entry for entry in reversed(self._recent) if entry.number > after), limit))

    def running(self) -> Iterator[Entry]:
        """The answers that are being given now, as far as they are."""
        for answer, face in self._running.items():
            yield _entry(answer, face, 0)

    def begin(self, answer: Answer, face: str) -> None:
        """A status line goes out."""
        if answer.content is not None:
            self._running[answer] = face
        elif answer.request is not None:
            entry = _entry(answer, face, 0)
            if face == "client":
                self._note(answer.request, entry)
            log.log(_level(entry), "%s", entry, extra={"fields": entry})

    def end(self, answer: Answer, face: str) -> None:
        """The content has been sent, or source or client broke off."""
        self._running.pop(answer, None)
        assert answer.request is not None
        self._number += 1
        entry = _entry(answer, face, self._number)
        self._recent.append(entry)
        if face == "client":
            self._note(answer.request, entry)
        log.info("%s", entry, extra={"fields": entry})

    def _note(self, request: Request, entry: Entry) -> None:
        key = (request.repository.registry, f"{request.repository.name}/{request.kind.value}/{request.reference}")
        self._last[key] = entry
        self._last.move_to_end(key)
        if len(self._last) > ENTRIES_MAX:
            self._last.popitem(last=False)


class FaceJournal:
    """Writes what one face does into the journal, then tells the next observer."""

    def __init__(self, journal: Journal, face: str, then: Observer) -> None:
        self._journal = journal
        self._face = face
        self._then = then

    def noted(self, step: Step) -> None:
        """A step was taken; the trail has it."""
        self._then.noted(step)

    def answered(self, answer: Answer) -> None:
        """A status line goes out."""
        self._journal.begin(answer, self._face)
        self._then.answered(answer)

    def ended(self, answer: Answer) -> None:
        """The content has been sent, or source or client broke off."""
        self._journal.end(answer, self._face)
        self._then.ended(answer)


def _entry(answer: Answer, face: str, number: int) -> Entry:
    request, content = answer.request, answer.content
    assert request is not None
    return Entry(
        at=time.time() - (time.monotonic() - answer.began_at),
        method=answer.method,
        status=answer.status,
        seconds=answer.first_byte_s,
        source=answer.source,
        holder=content.holder if content else "",
        message=answer.message[:MESSAGE_CHARACTERS_MAX],
        number=number,
        id=request.trail.id,
        face=face,
        reader=answer.reader,
        repository=str(request.repository),
        kind=request.kind.value,
        reference=str(request.reference),
        digest=str(content.descriptor.digest) if content else "",
        size=content.descriptor.size if content else None,
        bytes=answer.progress(),
        duration_s=answer.duration_s or time.monotonic() - answer.began_at,
        complete=answer.complete,
        steps=tuple(map(str, request.trail.steps)),
    )


def _level(entry: Entry) -> int:
    """A HEAD that is answered, and a refusal that is the registry's own, are part of every pull."""
    return logging.INFO if entry.source == "aside" else logging.DEBUG


def _line(entry: Entry) -> str:
    what = f"{entry.repository} {entry.kind.removesuffix('s')} {entry.reference}"
    whom = f" to {entry.reader or 'a peer'}" if entry.face == "peer" else ""
    if not entry.digest:
        why = f": {entry.message}" if entry.message else ""
        line = f"{what}: answered {entry.status}{whom} after {entry.seconds:.3f} s{why}"
    else:
        size = f"{entry.bytes:,} bytes" if entry.complete else f"broke off after {entry.bytes:,} bytes"
        source = " ".join(filter(None, (entry.source.replace("_", " "), entry.holder)))
        line = f"{what}: {size}{whom} from {source} in {entry.duration_s:.3f} s, first byte {entry.seconds:.3f} s"
    steps = f" ({', '.join(entry.steps)})" if entry.steps else ""
    return f"{line}{steps} [{entry.id}]"
