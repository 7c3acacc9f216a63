"""One atomic commit that makes a branch hold exactly the wanted files, however the network behaves.

`HfApi.upload_folder` splits large uploads into several commits, and `HfApi.create_commit` neither retries the commit
itself nor knows, after a lost answer, whether it happened. Here each attempt first reads the head: if it holds the
wanted files, the work is done; if it moved to anything else, somebody else published and nothing is overwritten
(`parent_commit` guards the moment between reading and committing). So an attempt may be repeated any number of times.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from moa.errors import HubUnavailableError, RepositoryConflictError
from moa.hub.client import is_transient, is_xet_lost, reason_of, status_of
from moa.hub.content import holds, remote_files
from moa.hub.meter import LARGE, Meter

PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # before the second, third, ... attempt
Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


def retrying(action: Callable[[], Result], *, what: str) -> Result:
    """Call an action that may be repeated until the Hub answers.

    Raises:
        HubUnavailableError: the Hub was still failing after the last pause.
    """
    for pause in (*PAUSES_S, None):
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
            if pause is None:
                advice = "; if the Hub's xet storage is out of reach, set HF_HUB_DISABLE_XET=1" * is_xet_lost(error)
                tried = f"gave up after {len(PAUSES_S) + 1} attempts ({reason_of(error)})"
                raise HubUnavailableError(f"{what}: {tried}; run it again later{advice}") from error
            logger.warning("%s: %s; again in %.0f s", what, reason_of(error), pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


def _send_large(api: HfApi, repo_id: str, branch: str, todo: Sequence[Operation], meter: Meter) -> None:
    """Send the large files of a commit before it, one after the other; what the Hub has already is not sent again."""
    for operation in todo:
        if isinstance(operation, CommitOperationAdd) and (size := operation.upload_info.size) >= LARGE:
            api.preupload_lfs_files(repo_id, [operation], revision=branch)
            meter.add(f"sent {operation.path_in_repo}", size)


def deletions(present: Mapping[str, str], wanted: Mapping[str, frozenset[str]]) -> list[Operation]:
    """What removes the files that are not wanted."""
    return [CommitOperationDelete(path) for path in sorted(present.keys() - wanted.keys())]


def head_of(api: HfApi, repo_id: str, branch: str) -> str:
    """Commit id a branch points to."""
    sha = api.model_info(repo_id, revision=branch).sha
    assert sha is not None
    return sha


def commit_files(
    api: HfApi,
    repo_id: str,
    branch: str,
    wanted: Mapping[str, frozenset[str]],
    operations: Callable[[dict[str, str]], list[Operation]],
    *,
    message: str,
    parent: str | None = None,
    meter: Meter | None = None,
) -> str:
    """Make a branch hold exactly the wanted files; returns the commit that does. Nothing is sent if it already does.

    Args:
        wanted: path -> the git ids its bytes may go by, see `moa.hub.content`.
        operations: given the files of the head, the operations that lead to the wanted ones. Called anew for each
            attempt.
        parent: the head that the caller decided on; without it, the one at the first look.
        meter: hears of each large file that was sent.

    Raises:
        RepositoryConflictError: the branch moved to other content after that.
        HubUnavailableError: see `retrying`.
    """

    def look() -> tuple[str, dict[str, str]]:
        head = head_of(api, repo_id, branch)
        return head, remote_files(api, repo_id, head)

    def moved(head: str) -> RepositoryConflictError:
        return RepositoryConflictError(
            f"{repo_id}: {branch} moved from {str(parent)[:10]} to {head[:10]} meanwhile; nothing was overwritten. "
            "Look at what was pushed there, then run this again"
        )

    def attempt() -> str:
        nonlocal parent
        head, present = look()
        if holds(present, wanted):
            return head
        if parent not in (None, head):
            raise moved(head)
        parent = head
        todo = operations(present)
        if meter:
            _send_large(api, repo_id, branch, todo, meter)
        try:
            return api.create_commit(repo_id, todo, commit_message=message, revision=branch, parent_commit=parent).oid
        except HfHubHTTPError as error:
            if status_of(error) != 412:
                raise
            head, present = look()  # an earlier attempt of ours may have arrived late
            if not holds(present, wanted):
                raise moved(head) from error
            return head

    return retrying(attempt, what=f"commit to {branch} of {repo_id}")
