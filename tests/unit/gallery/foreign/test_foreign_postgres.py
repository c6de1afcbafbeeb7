"""Tables of PostgreSQL, and those of other products as their public schemas describe them."""

import uuid
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest

from mixbct.errors import ContractError, DataError, GalleryError
from mixbct.gallery.foreign import Columns, VectorSource, open_source

ROWS, DIM = 40, 6
VECTORS = np.random.default_rng(1).normal(size=(ROWS, DIM)).astype(np.float32)
FACES = Columns(table="faces", key="id", vector="embedding", label="who")


@pytest.fixture
def database(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def text_of(row: Sequence[float]) -> str:
    return "[" + ",".join(f"{number:.9g}" for number in row) + "]"


def array_of(row: Sequence[float]) -> str:
    return "{" + text_of(row)[1:-1] + "}"


def make(database: psycopg.Connection, kind: str = "vector(6)") -> None:
    database.execute(f"CREATE TABLE faces (id bigint PRIMARY KEY, who text, embedding {kind})")
    form = array_of if "[]" in kind else text_of
    for i, row in enumerate(VECTORS):
        database.execute(
            "INSERT INTO faces VALUES (%s, %s, %s)", (i, f"p{i // 4}" if i % 3 else None, form(row))
        )


def everything(source: VectorSource) -> dict[str, tuple[str | None, np.ndarray]]:
    batches = [*source.read(7)]
    assert not any(batch.bad for batch in batches)
    found = {
        key: (label, vector)
        for batch in batches
        for key, label, vector in zip(batch.keys, batch.labels, batch.vectors, strict=True)
    }
    assert len(found) == source.rows == sum(len(batch.keys) for batch in batches)
    return found


@pytest.mark.parametrize("kind", ["vector(6)", "vector", "halfvec(6)", "real[]", "float8[]"])
def test_each_type_of_vector(database: psycopg.Connection, postgres_url: str, kind: str) -> None:
    make(database, kind)
    source = open_source(postgres_url, "old", FACES)
    found = everything(source)
    assert [*found] == [str(i) for i in range(ROWS)]
    assert found["5"][0] == "p1"
    assert found["3"][0] is None
    expected = VECTORS.astype(np.float16) if "half" in kind else VECTORS
    assert np.array_equal([vector for _, vector in found.values()], expected.astype(np.float32))
    assert source.contract.dim == DIM


def test_a_view_in_a_schema_under_odd_names(
    database: psycopg.Connection, postgres_url: str
) -> None:
    make(database)
    database.execute('CREATE SCHEMA "App"')
    database.execute(
        """CREATE VIEW "App"."100% odd.names" AS
        SELECT id AS "the %s key", embedding AS "select" FROM faces WHERE id < 9"""
    )
    columns = Columns('App."100% odd.names"', "the %s key", "select")
    assert len(everything(open_source(postgres_url, "old", columns))) == 9
    columns = columns._replace(contract="the %s key")
    assert [*everything(open_source(postgres_url, "7", columns))] == ["7"]


def test_rows_that_are_no_vectors_are_named(
    database: psycopg.Connection, postgres_url: str
) -> None:
    make(database, "real[]")
    database.execute("UPDATE faces SET embedding = NULL WHERE id = 3")
    database.execute("UPDATE faces SET embedding = '{1,2}' WHERE id = 4")
    database.execute("UPDATE faces SET embedding = '{1,2,3,4,5,NULL}' WHERE id = 5")
    (batch,) = open_source(postgres_url, "old", FACES).read(100)
    assert batch.bad == {"no vector": ["3"], "vectors of another dimension": ["4", "5"]}
    assert len(batch.keys) == ROWS - 3


def test_nothing_can_be_written(database: psycopg.Connection, postgres_url: str) -> None:
    make(database)
    database.execute("CREATE SEQUENCE counted")
    database.execute("CREATE VIEW trap AS SELECT nextval('counted')::text AS key, * FROM faces")
    with pytest.raises(GalleryError, match="read-only transaction"):
        everything(open_source(postgres_url, "old", Columns("trap", "key", "embedding")))


def test_errors_have_names_and_no_password(database: psycopg.Connection, postgres_url: str) -> None:
    make(database)
    with pytest.raises(DataError, match=r"no table that can be read; there are public\.faces"):
        open_source(postgres_url, "old", FACES._replace(table="people"))
    with pytest.raises(DataError, match="holds text there; expected vector, halfvec"):
        open_source(postgres_url, "old", FACES._replace(vector="who"))
    database.execute("TRUNCATE faces")
    with pytest.raises(GalleryError, match="no vectors there"):
        open_source(postgres_url, "old", FACES)
    url = urlsplit(postgres_url)
    for wrong in (
        url._replace(netloc=f"nobody:hunter2@{url.netloc.rpartition('@')[2]}").geturl(),
        "postgresql://nobody:hunter2@127.0.0.1:1/faces",
        "postgresql://nobody:hunter2@[faces",
    ):
        with pytest.raises(GalleryError) as error:
            open_source(wrong, "old", FACES)
        assert "hunter2" not in str(error.value)


def ids(count: int) -> list[str]:
    return [str(uuid.UUID(int=i + 1)) for i in range(count)]


OLD_IMMICH = """
CREATE TABLE assets (id uuid PRIMARY KEY, "ownerId" uuid NOT NULL, "deletedAt" timestamptz);
CREATE TABLE person (id uuid PRIMARY KEY, "ownerId" uuid, name varchar NOT NULL DEFAULT '');
CREATE TABLE asset_faces (id uuid PRIMARY KEY, "assetId" uuid NOT NULL, "personId" uuid,
    "deletedAt" timestamptz);
CREATE TABLE face_search ("faceId" uuid PRIMARY KEY, embedding vector(6) NOT NULL);
CREATE TABLE smart_search ("assetId" uuid PRIMARY KEY, embedding vector(6) NOT NULL);
"""
LATER_IMMICH = (
    OLD_IMMICH.replace("TABLE assets", "TABLE asset").replace("asset_faces", "asset_face")
    + """ALTER TABLE asset_face ADD "isVisible" boolean NOT NULL DEFAULT true;"""
)
NEWEST_IMMICH = LATER_IMMICH.replace('"personId" uuid', '"personGroupId" uuid').replace(
    "person (id uuid PRIMARY KEY, \"ownerId\" uuid, name varchar NOT NULL DEFAULT '')",
    'person ("ownerId" uuid, "personGroupId" uuid, name varchar NOT NULL DEFAULT \'\', '
    'PRIMARY KEY ("ownerId", "personGroupId"))',
)


@pytest.mark.parametrize("schema", [OLD_IMMICH, LATER_IMMICH, NEWEST_IMMICH])
def test_immich(database: psycopg.Connection, postgres_url: str, schema: str) -> None:
    database.execute(schema)
    newest = schema is NEWEST_IMMICH
    assets, faces = (
        ("asset", "asset_face") if "asset_face " in schema else ("assets", "asset_faces")
    )
    people, photos = ids(4), ids(20)
    owner, other = ids(2)
    names = ["Anna", "", "Ben", "Ben"]
    for person, name in zip(people, names, strict=True):
        database.execute(
            f'INSERT INTO person ("ownerId", {"""personGroupId""" if newest else "id"}, name) '
            "VALUES (%s, %s, %s)".replace("personGroupId", '"personGroupId"'),
            (owner, person, name),
        )
    if newest:  # another owner names the same group otherwise
        database.execute("INSERT INTO person VALUES (%s, %s, 'Mother')", (other, people[0]))
    for i, photo in enumerate(photos):
        database.execute(
            f'INSERT INTO {assets} (id, "ownerId", "deletedAt") VALUES (%s, %s, %s)',
            (photo, owner, "2025-01-01" if i == 19 else None),
        )
        database.execute(
            f'INSERT INTO {faces} (id, "assetId", "{"personGroupId" if newest else "personId"}", '
            '"deletedAt") VALUES (%s, %s, %s, %s)',
            (photo, photo, None if i == 8 else people[i % 4], "2025-01-01" if i == 3 else None),
        )
        for table, column in (("face_search", "faceId"), ("smart_search", "assetId")):
            database.execute(
                f'INSERT INTO {table} ("{column}", embedding) VALUES (%s, %s)',
                (photo, text_of(VECTORS[i])),
            )
    if "isVisible" in schema:
        database.execute(f'UPDATE {faces} SET "isVisible" = false WHERE id = %s', (photos[5],))
    found = everything(open_source(postgres_url, "buffalo_l", preset="immich"))
    hidden = {3} | ({5} if "isVisible" in schema else set())
    assert found.keys() == {photo for i, photo in enumerate(photos) if i not in hidden}
    labels = ["Anna", people[1], f"Ben {people[2]}", f"Ben {people[3]}"]
    for i, photo in enumerate(photos):
        if i not in hidden:
            assert found[photo][0] == (None if i == 8 else labels[i % 4])
            assert np.array_equal(found[photo][1], VECTORS[i])
    images = everything(
        open_source(postgres_url, "clip", Columns(table="smart_search"), preset="immich")
    )
    assert images.keys() == set(photos[:19])
    with pytest.raises(ContractError, match="--contract NAME"):
        open_source(postgres_url, preset="immich")


def test_compreface(database: psycopg.Connection, postgres_url: str) -> None:
    database.execute(
        """CREATE TABLE subject (id uuid PRIMARY KEY, api_key varchar, subject_name varchar);
        CREATE TABLE img (id uuid PRIMARY KEY, content bytea);
        CREATE TABLE embedding (id uuid PRIMARY KEY, subject_id uuid REFERENCES subject,
            embedding float8[] NOT NULL, calculator varchar NOT NULL, img_id uuid);"""
    )
    people = ids(3)
    for i, name in enumerate(["Anna", "Ben", "Ben"]):
        database.execute(
            "INSERT INTO subject VALUES (%s, %s, %s)", (people[i], f"secret {i}", name)
        )
    for i, id in enumerate(ids(20)):
        database.execute(
            "INSERT INTO embedding VALUES (%s, %s, %s, %s)",
            (id, people[i % 3], array_of(VECTORS[i]), "Facenet2018" if i < 15 else "arcface-r100"),
        )
    with pytest.raises(
        ContractError, match=r"'Facenet2018' \(15 rows\), 'arcface-r100' \(5 rows\)"
    ):
        open_source(postgres_url, preset="compreface")
    source = open_source(postgres_url, "Facenet2018", preset="compreface")
    found = [row for _, row in sorted(everything(source).items())]
    assert source.contract.name == "Facenet2018"
    assert [label for label, _ in found[:3]] == ["Anna", f"Ben {people[1]}", f"Ben {people[2]}"]
    assert np.array_equal([vector for _, vector in found], VECTORS[:15])


def test_compreface_before_it_had_subjects(database: psycopg.Connection, postgres_url: str) -> None:
    database.execute(
        "CREATE TABLE face (id varchar PRIMARY KEY, face_name varchar, api_key varchar, "
        "embeddings jsonb)"
    )
    for i in range(8):
        said = f'{{"embeddings": {text_of(VECTORS[i])}, "calculatorVersion": "Facenet2018"}}'
        database.execute("INSERT INTO face VALUES (%s, 'Anna', 'secret', %s)", (f"f{i}", said))
    source = open_source(postgres_url, preset="compreface")
    found = everything(source)
    assert source.contract.name == "Facenet2018"
    assert found["f3"][0] == "Anna"
    assert np.array_equal([vector for _, vector in found.values()], VECTORS[:8])


DEEPFACE = """
CREATE TABLE {} (id serial PRIMARY KEY, img_name text NOT NULL, model_name text NOT NULL,
    detector_backend text NOT NULL, aligned boolean, l2_normalized boolean, embedding {} NOT NULL,
    face_hash text, embedding_hash text)
"""


@pytest.mark.parametrize(
    ("table", "kind"),
    [("embeddings_facenet512_retinaface_aligned_raw", "vector(6)"), ("embeddings", "float8[]")],
)
def test_deepface(database: psycopg.Connection, postgres_url: str, table: str, kind: str) -> None:
    database.execute(DEEPFACE.format(table, kind))
    form = array_of if kind == "float8[]" else text_of
    for i in range(9):
        database.execute(
            f"INSERT INTO {table} (img_name, model_name, detector_backend, aligned, l2_normalized, "
            "embedding) VALUES (%s, 'Facenet512', 'retinaface', true, false, %s)",
            (f"family/{i // 2}.jpg", form(VECTORS[i])),
        )
    source = open_source(postgres_url, preset="deepface")
    found = everything(source)
    assert source.contract.name == "Facenet512 retinaface aligned raw"
    assert [*found][:3] == ["family/0.jpg#1", "family/0.jpg#2", "family/1.jpg#3"]
    assert np.array_equal([vector for _, vector in found.values()], VECTORS[:9])
    other = table + "_2"
    database.execute(DEEPFACE.format(other, kind))
    with pytest.raises(DataError, match="2 tables as deepface makes them"):
        open_source(postgres_url, preset="deepface")
    assert open_source(postgres_url, None, Columns(table=table), preset="deepface").rows == 9


def test_a_preset_of_another_product(database: psycopg.Connection, postgres_url: str) -> None:
    make(database)
    with pytest.raises(DataError, match="'face_search' is no table"):
        open_source(postgres_url, "old", preset="immich")
    database.execute('CREATE TABLE face_search ("faceId" uuid, embedding vector(6))')
    with pytest.raises(DataError, match="is it that product's database"):
        open_source(postgres_url, "old", preset="immich")
    with pytest.raises(DataError, match="no preset 'picasa'; choose from immich"):
        open_source(postgres_url, "old", preset="picasa")
