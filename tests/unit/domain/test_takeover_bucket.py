"""Taking over a deployment whose files lie in a bucket, without a Django."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update

from connectors.django.media import as_media, path_in, uri_in
from connectors.django.tables import AGGREGATES, UPDATES
from connectors.records import ReasonCode
from fedqueue.buckets import Bucket, blob_key, is_bucket
from tasks.domain.rounds import run_round
from tests.buckets import make_bucket, s3_server
from tests.deployments import Deployment, disagreements


def test_a_bucket_is_taken_over_like_a_folder(tmp_path: Path) -> None:
    """What FMA's row names of the hub's is an object that FMA's storage finds under the same location."""
    with s3_server(tmp_path) as server:
        make_bucket(server, "fma")
        fma = Deployment(tmp_path, "s3://fma/media")
        model_id, (client,) = fma.model()
        fma.send(model_id, client, [1, 2])
        bad = {fma.send(model_id, client, [5, 5]): path for path in ("../secret", "/secret", "model_updates/gone")}
        with fma.metadata.engine.begin() as connection:
            for key, path in bad.items():
                connection.execute(update(UPDATES).where(UPDATES.c.id == key).values(data=path))
        assert fma.take().counts["updates"] == 4
        posted = run_round(fma.hub, model_id).aggregate
        assert posted is not None
        with fma.metadata.engine.connect() as connection:
            name = connection.scalars(select(AGGREGATES.c.result)).one()
        assert name == f"fedqueue/{blob_key(posted.data.digest)}"
        assert b"".join(Bucket("s3://fma/media").read(name)) == b"[1.0, 2.0]"
        updates = fma.metadata.pull_model_updates(fma.known(model_id))
        assert {u.id: u.reason_code for u in updates if u.reason_code} == dict.fromkeys(bad, ReasonCode.CORRUPT)
        assert disagreements(fma.metadata.engine) == []
        fma.metadata.close()


@pytest.mark.parametrize("media", ["/srv/media", "s3://fma/media", "s3://fma"])
def test_a_row_names_a_file_relative_to_the_media(media: str) -> None:
    """And nothing else is a name: not what only begins alike, nor what leads out of there."""
    place = as_media(media)
    root = media if is_bucket(media) else f"file://{media}"
    assert uri_in(place, "model_updates/one") == f"{root}/model_updates/one"
    assert path_in(place, f"{root}/fedqueue/sha256/ab/abc") == "fedqueue/sha256/ab/abc"
    for uri in (f"{root}2/one", f"{root[:-1]}/one", "s3://other/media/one", "file:///elsewhere/one"):
        with pytest.raises(ValueError, match="one"):
            path_in(place, uri)
