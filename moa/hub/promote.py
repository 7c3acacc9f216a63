"""What `main` of a repository holds: a candidate, promoted; or what it held before, restored.

Both are one commit that copies files of another revision (large files by reference), and both may be run again at any
time: what is already there is not changed. `main` never holds half a model.
"""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi

from moa.errors import PublicationMismatchError, RepositoryConflictError
from moa.hub.card import CardInput, render_card
from moa.hub.client import hub_client
from moa.hub.commit import Operation, commit_files, deletions, retrying
from moa.hub.content import LocalFile, holds, local_file, remote_files
from moa.hub.publication import MAIN, Promotion, Publication


def promote(
    publication: Publication,
    *,
    tag: str,
    token: str | None,
    endpoint: str | None = None,
    card: CardInput | None = None,
    records: Mapping[str, bytes] | None = None,
    expected_main: str | None = None,
) -> Promotion:
    """Make `main` hold exactly the files of a published candidate, with what is given here, and tag the result.

    Files of `main` that the candidate lacks are deleted.

    Args:
        endpoint: where the repository is now, if no longer where it was published (a local Hub on another port).
        card: rewrites README.md in the same commit, for instance with the scores of the evaluation; its example
            loads the tag.
        records: more files by path, such as the decision that led here.
        expected_main: the commit of `main` for which the promotion was decided; without it, the one there now.

    Raises:
        RepositoryConflictError: `main` was moved by somebody else, or the tag stands for something else.
        RepositoryMissingError: the candidate is not there.
        HubError: its other subclasses, see `moa.hub.client`.
    """
    repo_id, endpoint = publication.repo_id, endpoint or publication.endpoint
    added = {path: local_file(data) for path, data in (records or {}).items()}
    if card is not None:
        added["README.md"] = local_file(render_card(card, repo_id, tag, endpoint).encode())
    with hub_client(endpoint, token=token, repo_id=repo_id, writing=True) as api:
        candidate = retrying(
            lambda: remote_files(api, repo_id, publication.commit), what=f"read candidate of {repo_id}"
        )
        if candidate.keys() != publication.files.keys():
            raise PublicationMismatchError(
                f"{repo_id}@{publication.commit}: does not hold the published files; publish again"
            )
        _check_tag(api, repo_id, tag, _wanted(candidate, added))
        message = f"Promote {publication.branch} as {tag}"
        commit = _move_main(api, repo_id, publication.commit, candidate, added, message, expected_main)
        retrying(lambda: api.create_tag(repo_id, tag=tag, revision=commit, exist_ok=True), what=f"tag {repo_id}")
        history = retrying(lambda: api.list_repo_commits(repo_id, revision=commit), what=f"read history of {repo_id}")
    return Promotion(
        repo_id=repo_id,
        endpoint=endpoint,
        candidate=publication.commit,
        commit=commit,
        previous=history[1].commit_id,
        tag=tag,
    )


def restore(
    repo_id: str, revision: str, *, token: str | None, endpoint: str, message: str, expected_main: str | None = None
) -> str:
    """Make `main` hold again exactly what it held at an earlier commit; returns the commit that it is at then.

    Nothing is lost: the commits in between stay in the history, and their tags where they were.

    Args:
        revision: the commit, or a tag of it.
        message: of the commit.
        expected_main: as for `promote`.

    Raises:
        RepositoryMissingError: no such repository or revision.
        RepositoryConflictError: `main` was moved by somebody else.
        HubError: its other subclasses, see `moa.hub.client`.
    """
    with hub_client(endpoint, token=token, repo_id=repo_id, writing=True) as api:
        files = retrying(lambda: remote_files(api, repo_id, revision), what=f"read {revision} of {repo_id}")
        return _move_main(api, repo_id, revision, files, {}, message, expected_main)


def _move_main(
    api: HfApi,
    repo_id: str,
    source: str,
    files: Mapping[str, str],
    added: Mapping[str, LocalFile],
    message: str,
    parent: str | None,
) -> str:
    """Makes `main` hold the files (path -> git id) of revision `source` and what is added; returns the commit."""
    wanted = _wanted(files, added)

    def operation(path: str) -> Operation:
        if path in added:
            return CommitOperationAdd(path, added[path].source)
        return CommitOperationCopy(path, path, src_revision=source)

    def operations(present: dict[str, str]) -> list[Operation]:
        changed = [path for path in wanted if present.get(path) not in wanted[path]]
        return deletions(present, wanted) + [operation(path) for path in changed]

    return commit_files(api, repo_id, MAIN, wanted, operations, message=message, parent=parent)


def _wanted(files: Mapping[str, str], added: Mapping[str, LocalFile]) -> dict[str, frozenset[str]]:
    """Path -> the git ids its bytes may go by."""
    return {path: frozenset({name}) for path, name in files.items()} | {path: own.names for path, own in added.items()}


def _check_tag(api: HfApi, repo_id: str, tag: str, wanted: Mapping[str, frozenset[str]]) -> None:
    """A tag never moves: it may exist only on what is about to be promoted."""
    refs = retrying(lambda: api.list_repo_refs(repo_id), what=f"read tags of {repo_id}")
    there = next((existing.target_commit for existing in refs.tags if existing.name == tag), None)
    if there is None:
        return
    tagged = retrying(lambda: remote_files(api, repo_id, there), what=f"read tag {tag} of {repo_id}")
    if not holds(tagged, wanted):
        raise RepositoryConflictError(f"{repo_id}: tag {tag} already stands for another model; choose another tag")
