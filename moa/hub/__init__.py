"""Publishing: a pipeline folder becomes a pinned, verified revision of a Hub repository, and comes back from there.

    store.py        repositories on disk: content-addressed blobs, commits, branches, tags
    request.py, connection.py    HTTP: reading a request, who may ask, refusals and answers
    protocol.py, handler.py      the Hub's endpoints over a store
    server.py       a Hub on this machine: `python -m moa.hub.server --root DIR`
    git_names.py    the ids git gives to files
    loopback.py     which addresses are on this machine
    client.py       one place that talks to huggingface_hub: tokens, offline mode, xet, time limits, typed errors
    content.py      what a folder holds and what a revision holds, compared by digest
    commit.py       one atomic commit, retried without doing it twice
    publish.py      a pipeline folder becomes a candidate branch
    promote.py      what main holds: a candidate promoted, or what it held before
    download.py     a revision as a local folder, verified
    publication.py  the records these leave (publication.json, promotion.json)
    card.py         the model card
    licences.py     the terms a published model carries, and their acceptance

Nothing here imports torch.
"""
