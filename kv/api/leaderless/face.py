"""The leaderless regime as its face sees it, and the calls of one key: bytes in, a Reply out.

    key, body, Asked --> hot.*_change --> coordinator --> hot.*_reply --> done(Reply)

Both lanes make these same calls, so what they answer is the same to the byte. `done` is told
exactly once, maybe inside the call. No coroutine, no future, nothing of aiohttp.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from kv.api.failures import defect_reply, error_reply
from kv.api.hot import AS_IS, Forms
from kv.api.leaderless import hot
from kv.api.leaderless.hot import Codecs
from kv.api.leaderless.options import Asked
from kv.api.reply import Reply
from kv.leaderless.get_core import GetResult
from kv.leaderless.keyspace import PLAIN, Keyspace, Wish
from kv.leaderless.listing import Listed
from kv.leaderless.put_core import Written
from kv.leaderless.rules import Increment, Write
from kv.leaderless.session import Seen, seen_of
from kv.leaderless.watching import Watching
from kv.regime import Done
from storage.clock import Clock as Time
from storage.codec import check_key
from storage.errors import JanusError
from storage.siblings import EMPTY_CLOCK, Clock

_log = logging.getLogger(__name__)

Replied = Callable[[Reply], None]


class Regime(Protocol):
    """kv/leaderless/coordinator.py"""

    def put(
        self,
        keyspace: int,
        key: bytes,
        change: Write | Increment,
        done: Done[Written],
        wish: Wish = PLAIN,
    ) -> None: ...

    def get(
        self,
        keyspace: int,
        key: bytes,
        done: Done[GetResult],
        wish: Wish = PLAIN,
        *,
        must_cover: Clock = EMPTY_CLOCK,
    ) -> None: ...


class Listing(Protocol):
    """kv/leaderless/listing.py"""

    async def page(
        self, space: Keyspace, start: bytes, end: bytes | None, limit: int
    ) -> Listed: ...


@dataclass(slots=True)
class Face:
    """One leaderless keyspace; a cluster with several makes several. `space` changes when the
    keyspace's options do."""

    regime: Regime
    space: Keyspace
    codecs: Codecs
    clock: Time
    lister: Listing | None = None
    watching: Watching | None = None

    def now_ms(self) -> int:
        return int(self.clock.wall() * 1000)

    def session(self, asked: Asked) -> Seen | None:
        """Raises InvalidSessionError."""
        return None if asked.session is None else self.codecs.sessions.decode(asked.session.strip())


class KeyCalls:
    """GET, PUT and DELETE of one key."""

    def __init__(self, face: Face) -> None:
        self._face: Final = face

    def get(
        self,
        key: bytes,
        asked: Asked,
        done: Replied,
        forms: Forms = AS_IS,
    ) -> None:
        face = self._face
        self._read(
            key,
            asked,
            done,
            lambda found, session: hot.get_reply(
                face.codecs, face.space, key, found, face.now_ms(), session, forms
            ),
        )

    def get_raw(self, key: bytes, asked: Asked, done: Replied, *, multipart: bool = False) -> None:
        face = self._face
        self._read(
            key,
            asked,
            done,
            lambda found, session: hot.raw_reply(
                face.codecs,
                face.space,
                key,
                found,
                face.now_ms(),
                session,
                multipart=multipart,
            ),
        )

    def _read(
        self,
        key: bytes,
        asked: Asked,
        done: Replied,
        encode: Callable[[GetResult, Seen | None], Reply],
    ) -> None:
        face = self._face
        try:
            check_key(key)
            session = face.session(asked)
        except JanusError as error:
            done(error_reply(error))
            return
        covered = EMPTY_CLOCK if not session else seen_of(session, face.space.number, key)
        face.regime.get(
            face.space.number,
            key,
            partial(_answered, done, "GET", lambda found: encode(found, session)),
            asked.wish,
            must_cover=covered,
        )

    def put(
        self, key: bytes, body: bytes, asked: Asked, done: Replied, forms: Forms = AS_IS
    ) -> None:
        face = self._face
        self._write(
            key,
            lambda: hot.put_change(
                face.codecs, face.space, key, body, asked.context, face.now_ms()
            ),
            asked,
            done,
            forms,
        )

    def put_raw(
        self, key: bytes, value: bytes, ttl_s: float | None, asked: Asked, done: Replied
    ) -> None:
        face = self._face
        self._write(
            key,
            lambda: hot.write_of(
                face.codecs, face.space, key, value, asked.context, ttl_s, face.now_ms()
            ),
            asked,
            done,
            AS_IS,
        )

    def delete(
        self, key: bytes, body: bytes, asked: Asked, done: Replied, forms: Forms = AS_IS
    ) -> None:
        face = self._face
        self._write(
            key,
            lambda: hot.delete_change(face.codecs, face.space, key, body, asked.context),
            asked,
            done,
            forms,
        )

    def _write(
        self,
        key: bytes,
        make: Callable[[], Write],
        asked: Asked,
        done: Replied,
        forms: Forms,
    ) -> None:
        face = self._face
        try:
            check_key(key)
            session = face.session(asked)
            change = make()
        except JanusError as error:
            done(error_reply(error))
            return
        face.regime.put(
            face.space.number,
            key,
            change,
            partial(
                _answered,
                done,
                "PUT",
                lambda written: hot.write_reply(
                    face.codecs, face.space, key, written, session, forms
                ),
            ),
            asked.wish,
        )


def _answered(
    done: Replied,
    method: str,
    encode: Callable[[GetResult], Reply] | Callable[[Written], Reply],
    answer: GetResult | Written | JanusError,
) -> None:
    try:
        reply = error_reply(answer) if isinstance(answer, JanusError) else encode(answer)  # type: ignore[arg-type]
    except JanusError as error:
        reply = error_reply(error)
    except Exception:  # noqa: BLE001 - the last edge: logged, and answered as a defect
        _log.exception("a defect in a leaderless %s", method)
        reply = defect_reply(method)
    done(reply)
