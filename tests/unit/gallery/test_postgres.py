"""What is special about a gallery in PostgreSQL: its server, its rights, its derived tables."""

import subprocess
import sys
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest
from psycopg import errors

from mixbct.data.postgresql import Server
from mixbct.errors import DiskFullError, GalleryError, without_passwords
from mixbct.gallery import Gallery
from mixbct.gallery.postgres.reindex import reindex
from mixbct.gallery.records import QueryModel
from mixbct.gallery.stores import create_store, open_store
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap

SECRET = "s3cr3t-of-nobody"


@pytest.fixture
def store(postgres_url, old, vectors):
    made = create_store(postgres_url, QueryModel(old, None))
    with made.write() as transaction:
        transaction.put(
            [f"k{i}" for i in range(50)], [f"l{i}" for i in range(50)], old, vectors(50)
        )
    yield made
    made.close()


@pytest.fixture
def admin(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("SET search_path = mixbct, public")
        yield connection


def tables(admin, like):
    found = admin.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE %s", (like,))
    return [name for (name,) in found.fetchall()]


def as_role(url, name, password=None, **query):
    parts = urlsplit(url)
    user = name if password is None else f"{name}:{password}"
    return parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}").geturl()


def login(admin, name, rights=(), guarded=False):
    """Make a role that may do no more than it is told."""
    admin.execute(f"DROP ROLE IF EXISTS {name}")
    admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
    if guarded:
        there = admin.execute("SELECT FROM pg_roles WHERE rolname = 'guarded'").fetchone()
        if there is None:
            admin.execute("CREATE ROLE guarded")
        admin.execute(f"GRANT guarded TO {name}")
    for right in rights:
        admin.execute(f"GRANT {right} TO {name}")


# --- connections


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u@h:5433/db", "postgresql://u@h:5433/db"),
        (f"postgresql://u:{SECRET}@h:5433/db?schema=x", "postgresql://u@h:5433/db?schema=x"),
        (f"postgres://u:{SECRET}@h/db?sslmode=require", "postgresql://u@h/db"),
        (f"postgresql:///db?host=/tmp&password={SECRET}", "postgresql:///db?host=/tmp"),
        (f"postgresql://u:%22{SECRET}%2F@h/db?schema=a%20b", "postgresql://u@h/db?schema=a+b"),
        ("postgresql://", "postgresql:///"),
    ],
)
def test_a_place_is_shown_without_its_password(url, place):
    server = Server(url)
    assert server.place == place
    assert SECRET not in repr(vars(server)["place"]) + repr(server) + without_passwords(url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@x@h/db",
        f"postgresql://u:x/{SECRET}@h/db",
        f"postgresql://u:{SECRET}%zz@h/db",
        f"postgresql://u:{SECRET}@h/db?bogus=1",
        f"postgresql://u:{SECRET}@h:port/db",
        f"postgresql://u:{SECRET}@h/db?schema=",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_and_not_quoted(url):
    with pytest.raises(GalleryError, match="percent encoding") as refused:
        Server(url)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert SECRET not in without_passwords(url)


def test_whoever_cannot_connect_learns_why(postgres_url, admin):
    login(admin, "asked", guarded=True)
    parts = urlsplit(postgres_url)
    for url, says in (
        (as_role(postgres_url, "asked", "wrong" + SECRET), "password is wrong"),
        (as_role(postgres_url, "asked"), "password is wrong"),
        (parts._replace(path=f"/none-{SECRET[:3]}").geturl(), "no such database"),
        (parts._replace(path="/db", query="host=/tmp/nowhere").geturl(), "cannot be reached"),
        (f"postgresql://u:{SECRET}@127.0.0.1:1/db", "cannot be reached"),
        (as_role(postgres_url, "nobody_at_all", SECRET), "nobody_at_all"),
    ):
        with pytest.raises(GalleryError, match=says) as failed:
            open_store(url)
        assert SECRET not in str(failed.value)
        assert failed.value.__cause__ is None
    with pytest.raises(GalleryError, match=r"no gallery at .*gallery init"):
        open_store(as_role(postgres_url, "asked", SECRET))
    admin.execute("DROP ROLE asked")


def test_a_gallery_needs_pgvector_and_an_empty_schema(postgres_url, admin, old, store):
    with pytest.raises(GalleryError, match="holds 9 tables or functions already"):
        create_store(postgres_url, QueryModel(old, None))
    other = f"{postgres_url}{'&' if '?' in postgres_url else '?'}schema=My%20Own"
    made = create_store(other, QueryModel(old, None))
    assert "schema=My+Own" in made.place
    with made.read() as snapshot:
        assert snapshot.contracts() == []
    made.close()
    login(admin, "poor")
    admin.execute('DROP SCHEMA mixbct CASCADE; DROP SCHEMA "My Own" CASCADE; DROP EXTENSION vector')
    with pytest.raises(GalleryError, match="may not do that"):
        create_store(as_role(postgres_url, "poor"), QueryModel(old, None))
    admin.execute("DROP ROLE poor")


def test_who_may_only_read_can_search(store, postgres_url, admin, old, vectors):
    login(admin, "reader", ["USAGE ON SCHEMA mixbct", "SELECT ON ALL TABLES IN SCHEMA mixbct"])
    reader = open_store(as_role(postgres_url, "reader"))
    side = LinearMap.of(np.random.default_rng(1).normal(size=(8, 5)))
    with reader.read() as snapshot:
        found = snapshot.search(old, vectors(2, 3), 4)
        assert found.exact
        assert snapshot.items(found.ids.ravel().tolist())
        # what is not prepared, and cannot be
        mapped = snapshot.search(old, vectors(2, 3, 5), 4, side)
    with store.read() as snapshot:
        assert np.array_equal(found.ids, snapshot.search(old, vectors(2, 3), 4).ids)
        again = snapshot.search(old, vectors(2, 3, 5), 4, side)
        assert np.array_equal(again.ids, mapped.ids)
    with pytest.raises(GalleryError, match="may not do that; it can search"), reader.write():
        pass
    reader.close()
    admin.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_a_server_that_goes_away_is_named_and_can_come_back(store, admin, old, vectors):
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mixbct' "
        "AND datname = current_database()"
    )

    def change():
        with store.write() as transaction:
            transaction.put(["x"], [None], old, vectors(1, 9))
            admin.execute(kill)
            transaction.put(["y"], [None], old, vectors(1, 8))

    with pytest.raises(GalleryError, match="went away; nothing that was not finished is stored"):
        change()
    with store.read() as snapshot:
        assert snapshot.ids(["x", "y"]) == {}
    # a connection that was lost while nobody used it is replaced unseen
    admin.execute(kill)
    with store.read() as snapshot:
        assert snapshot.contracts()[0].rows == 50


@pytest.mark.parametrize(
    ("problem", "kind", "says"),
    [
        (errors.DiskFull("could not extend file"), DiskFullError, "no space left on the disk"),
        (errors.OutOfMemory("out of memory"), DiskFullError, "no memory left"),
        (errors.ReadOnlySqlTransaction("x"), GalleryError, "can only be read here"),
        (errors.QueryCanceled("timeout"), GalleryError, "stopped the statement"),
        (errors.TooManyConnections("x"), GalleryError, "no connection left"),
        (errors.ProgramLimitExceeded("too long"), GalleryError, "cannot be used: too long"),
    ],
)
def test_the_servers_errors_have_names(problem, kind, says):
    with pytest.raises(kind, match=says), Server("postgresql://u@h/db").named_errors():
        raise problem


def test_a_key_that_is_there_is_found_wherever_it_stands(store, old, vectors):
    keys = [*(f"n{i}" for i in range(700)), "k7"]
    with store.write() as transaction:
        assert transaction.put(keys, [None] * 701, old, vectors(701, 5)) == ["k7"]
        assert transaction.put(keys[::-1], [None] * 701, old, vectors(701, 6)) == keys[::-1]
    with store.read() as snapshot:
        assert snapshot.contracts()[0].rows == 750
        assert len(snapshot.versions("k7")) == 3
        assert snapshot.faults() == []


# --- what is not as mixbct made it


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("CREATE TABLE more (id int)", "'more' was added or taken away"),
        ("DROP TABLE past", "'past' was added or taken away"),
        ("ALTER TABLE rows_1 ADD COLUMN price int", "'rows_1' has the columns"),
        ("ALTER TABLE rows_1 ALTER label SET DEFAULT lower('X')", "'rows_1' has the columns"),
        ("ALTER TABLE rows_1 ALTER vector TYPE vector", "'rows_1' has the columns"),
        ("ALTER TABLE rows_1 ADD CHECK (length(key) > 0)", "'rows_1' has code"),
        ("CREATE RULE r AS ON INSERT TO rows_1 DO ALSO SELECT 1", "'rows_1' has code"),
        ("ALTER TABLE rows_1 ENABLE ROW LEVEL SECURITY", "'rows_1' has code"),
        ("CREATE INDEX i ON rows_1 (lower(key))", "'rows_1' has code"),
        (
            "CREATE VIEW mapped_0123456789ab AS SELECT id, vector FROM rows_1",
            "'mapped_0123456789ab' is no table",
        ),
        (
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN RETURN NEW; END'; CREATE TRIGGER t BEFORE INSERT ON rows_1 "
            "FOR EACH ROW EXECUTE FUNCTION public.f()",
            "'rows_1' has code",
        ),
        ("UPDATE gallery SET version = 7", "schema version 7, this version of mixbct reads 1 to 3"),
    ],
)
def test_a_schema_that_is_not_all_mixbcts_is_refused(store, postgres_url, admin, change, says):
    admin.execute(change)
    with pytest.raises(GalleryError, match=says):
        open_store(postgres_url)


def test_nothing_of_a_strangers_is_run(store, postgres_url, admin, old, vectors):
    of = "(LEFTARG = vector, RIGHTARG = vector, FUNCTION = l2_distance)"
    admin.execute("CREATE SEQUENCE public.ran")
    for change, says, undone in (
        (
            "ALTER TABLE gallery RENAME TO derived_1; CREATE VIEW gallery AS "
            "SELECT nextval('public.ran')::integer AS version",
            "'derived_1' was added",
            "DROP VIEW gallery; ALTER TABLE derived_1 RENAME TO gallery",
        ),
        (
            f"CREATE OPERATOR mixbct.<#> {of}",
            "'operator <#>' was added",
            "DROP OPERATOR mixbct.<#> (vector, vector)",
        ),
        (
            "CREATE FUNCTION mixbct.max(integer) RETURNS integer LANGUAGE sql AS "
            "'SELECT nextval(''public.ran'')::integer'",
            "'function max' was added",
            "DROP FUNCTION mixbct.max",
        ),
        ("CREATE DOMAIN mixbct.halfvec AS text", "'type halfvec'", "DROP DOMAIN mixbct.halfvec"),
        (
            'CREATE TABLE "mapped_1, public.theirs" (id bigint PRIMARY KEY, vector vector(8))',
            "'mapped_1, public.theirs' was added",
            'DROP TABLE "mapped_1, public.theirs"',
        ),
    ):
        admin.execute(change)
        with pytest.raises(GalleryError, match=says):
            open_store(postgres_url)
        admin.execute(undone)
    name = "mapped_1, (SELECT nextval(''public.ran'')) AS n"
    admin.execute(f"INSERT INTO derived VALUES ('{name}', 1, 'x', '{{}}', 0, 0, 0)")
    opened = open_store(postgres_url)
    for use in (
        lambda g: g.search(vectors(1), old),
        lambda g: g.enrol(["new"], [None], vectors(1, 9), old),
        lambda g: g.faults(),
    ):
        with pytest.raises(GalleryError, match="has a strange name"):
            use(Gallery(opened))
    opened.close()
    assert admin.execute("SELECT is_called FROM public.ran").fetchone() == (False,)


def test_an_index_that_the_owner_made_is_no_code_and_answers_nothing(
    store, postgres_url, admin, old, vectors
):
    admin.execute("CREATE INDEX theirs ON rows_1 USING hnsw (vector vector_ip_ops)")
    admin.execute(f"ALTER DATABASE {admin.info.dbname} SET enable_seqscan = off")
    opened = open_store(postgres_url)
    with opened.read() as snapshot:
        plan = "\n".join(
            line
            for (line,) in snapshot.do(
                "EXPLAIN SELECT -(vector <#> %b) AS score, id FROM rows_1 "
                "ORDER BY 1 DESC, 2 LIMIT 3",
                vectors(1)[0],
            )
        )
        assert "theirs" not in plan
    opened.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE rows_1 SET label = 'other' WHERE key = 'k7'", "the item 'k7' is not as it was"),
        ("UPDATE rows_1 SET key = 'other' WHERE key = 'k7'", "the item 'other' is not as it was"),
        (
            "UPDATE rows_1 v SET vector = w.vector FROM rows_1 w WHERE v.id = 8 AND w.id = 9",
            "the item 'k7' is not as it was",
        ),
        ("DELETE FROM rows_1 WHERE id = 8", "has -1 rows more than are told of"),
        ("UPDATE contracts SET rows = 51", "has -1 rows more than are told of"),
    ],
)
def test_what_was_changed_behind_it_is_noticed(store, postgres_url, admin, old, change, says):
    def look(snapshot):
        found = snapshot.search(old, np.eye(8, dtype=np.float32), 60)
        snapshot.items(np.unique(found.ids).tolist())

    admin.execute(change)
    opened = open_store(postgres_url)
    with opened.read() as snapshot:
        assert any(says in fault for fault in snapshot.faults())
        with pytest.raises(GalleryError):
            look(snapshot)
    opened.close()


def test_an_edge_that_was_changed_is_refused(store, admin, old, new, make_edge):
    with store.write() as transaction:
        transaction.add_edge(make_edge(new, old, 0.5))
    admin.execute("UPDATE edges SET json = replace(json, '0.5', '0.1')")
    with pytest.raises(GalleryError, match="the edge from"), store.read() as snapshot:
        snapshot.edges()


# --- what is derived


def test_mapped_rows_go_with_the_undo_and_stored_ones_stay(
    store, admin, old, new, make_edge, vectors
):
    gallery = Gallery(store)
    edge = make_edge(new, old, seed=1)
    before = gallery.vectors_digest()
    gallery.prepare(new, edge)
    assert len(tables(admin, "mapped%")) == 1
    gallery.switch(new, edge)
    assert gallery.search(vectors(2, 3), new).exact
    assert len(tables(admin, "mapped%")) == 1
    gallery.rollback()
    store.database.sweep(store)
    assert tables(admin, "mapped%") == []
    assert gallery.vectors_digest() == before
    assert gallery.search(vectors(2, 3), old).exact


def test_mapped_rows_that_somebody_reads_are_dropped_later(
    store, admin, old, new, make_edge, vectors
):
    gallery = Gallery(store)
    edge = make_edge(new, old, seed=1)
    gallery.prepare(new, edge)
    gallery.switch(new, edge)
    with store.read() as snapshot:
        snapshot.contracts()
        gallery.rollback()
        store.database.sweep(store)
        # its state is the one before: it finds what it needs
        found = snapshot.search(old, vectors(2, 3, 6), 5, edge.bridge.gallery)
        assert found.exact
        assert len(tables(admin, "mapped%")) == 1
    store.database.sweep(store)
    assert tables(admin, "mapped%") == []


def test_a_preparation_that_was_stopped_goes_on(store, old, vectors, monkeypatch):
    monkeypatch.setattr("mixbct.gallery.postgres.derive.BLOCK", 20)
    monkeypatch.setattr("mixbct.gallery.snapshot.BLOCK", 20)
    side = LinearMap.of(np.random.default_rng(1).normal(size=(8, 5)))

    def stop(done, total):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.prepare(old, side, stop)
    with store.write() as transaction:  # meanwhile, on both sides of where it is
        transaction.remove(["k1", "k45"])
        transaction.put(["k2", "new"], [None, None], old, vectors(2, 9))
    with store.read() as snapshot:
        assert snapshot.ready(old, side) is None
    seen = []
    store.prepare(old, side, lambda done, total: seen.append(done))
    assert seen[0] > 20
    with store.read() as snapshot:
        assert snapshot.ready(old, side) == 49
        assert snapshot.faults() == []
        found = snapshot.search(old, vectors(3, 4, 5), 49, side)
        rows = np.concatenate([block.vectors for block in snapshot.blocks(old)])
        mapped = rows @ side.arrays[0]
        mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    np.testing.assert_allclose(found.scores, -np.sort(-vectors(3, 4, 5) @ mapped.T), atol=1e-6)


@pytest.mark.parametrize(("dim", "kind"), [(8, "vector"), (2500, "halfvec")])
def test_hnsw_is_said_not_to_be_exact_and_its_recall_is_measured(store, admin, vectors, dim, kind):
    many = Contract(name="many", weights="w", preprocessing=None, dim=dim)
    with store.write() as transaction:
        transaction.put([f"m{i}" for i in range(300)], [None] * 300, many, vectors(300, 1, dim))
    found = reindex(store, "pgvector-hnsw")
    (recall,) = [each for each in found if each[0].contract == many]
    assert not recall[1]
    assert recall[2] > 0.9
    with store.write() as transaction:  # followed, as any index of the server's
        transaction.put(["late"], [None], many, vectors(1, 2, dim))
    with store.read() as snapshot:
        assert snapshot.searched_by() == "pgvector-hnsw"
        near = snapshot.search(many, vectors(1, 2, dim), 5)
        assert not near.exact
        assert snapshot.items(near.ids[0, :1].tolist()).popitem()[1].key == "late"
        assert near.scores[0, 0] == pytest.approx(1, abs=1e-6)
        assert (np.diff(near.scores[0]) <= 0).all()
    definition = admin.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'rows_2_hnsw'")
    assert f"{kind}_ip_ops" in definition.fetchone()[0]
    assert all(each[1:] == (True, 1) for each in reindex(store, "exact"))
    with store.read() as snapshot:
        assert snapshot.search(many, vectors(1, 2, dim), 5).exact


def test_more_dimensions_than_an_index_takes(store, vectors):
    huge = Contract(name="huge", weights="w", preprocessing=None, dim=4001)
    with store.write() as transaction:
        transaction.put(["h"], [None], huge, vectors(1, 1, 4001))
    with pytest.raises(GalleryError, match="up to 4,000 dimensions, not 4,001"):
        reindex(store, "pgvector-hnsw")
    with store.read() as snapshot:
        assert snapshot.searched_by() == "exact"
        assert snapshot.search(huge, vectors(1, 1, 4001), 1).scores[0, 0] == pytest.approx(1)


# --- Milvus


def test_milvus_shows_each_state_however_far_it_is_behind(store, old, vectors, tmp_path):
    place = f"milvus:{tmp_path}/vectors.db?index=FLAT"
    ((stored, exact, recall),) = reindex(store, place)
    assert (stored.contract, exact, recall) == (old, True, 1.0)
    assert Gallery(store).status().searched_by == place
    asked = []
    with store.read() as snapshot:
        milvus = store.database.milvus(snapshot)
    original = milvus.search
    milvus.search = lambda *given: asked.append(given) or original(*given)
    with store.read() as before, store.write() as transaction:
        assert before.ready(old) == 50
        transaction.remove(["k0", "k1"])
        transaction.put(["k2", "late"], [None, None], old, vectors(2, 9))
        mine = before.search(old, vectors(3, 4), 60)
        assert mine.ids.shape == (3, 50)
    with store.read() as snapshot:
        found = snapshot.search(old, vectors(3, 4), 60)
        rows = np.concatenate([block.vectors for block in snapshot.blocks(old)])
        assert found.ids.shape == (3, 49)
        np.testing.assert_allclose(found.scores, -np.sort(-vectors(3, 4) @ rows.T), atol=1e-6)
    assert len(asked) == 2  # Milvus was asked, both times
    # in doubt, it is not believed, and made again
    (known,) = snapshot.facts.derived.values()
    milvus.drop(known.name)
    with store.read() as snapshot:
        assert np.array_equal(snapshot.search(old, vectors(3, 4), 60).ids, found.ids)
    assert len(asked) == 2
    store.prepare(old)
    with store.read() as snapshot:
        assert np.array_equal(snapshot.search(old, vectors(3, 4), 60).ids, found.ids)
    assert len(asked) == 3
    # pruned, it holds nothing that is gone
    with store.read() as snapshot:
        (known,) = snapshot.facts.derived.values()
    Gallery(store).prune()
    assert milvus.count(known.name) == known.rows == 49
    Gallery(store).remove(["late"])
    Gallery(store).prune()
    assert milvus.count(known.name) == -1
    with store.read() as snapshot:
        assert snapshot.search(old, vectors(3, 4), 60).ids.shape == (3, 48)
    assert reindex(store, "exact")[0][1]


def test_a_place_of_milvus_that_is_none(store, tmp_path, monkeypatch):
    for place in ("milvus:/x.db?index=IVF", f"milvus://u:{SECRET}@h:19530", "https://h"):
        with pytest.raises(GalleryError, match="no place for an index") as refused:
            reindex(store, place)
        assert SECRET not in str(refused.value)
    with store.read() as snapshot:
        assert snapshot.searched_by() == "exact"


# --- several at once

_SEARCHER = """
import sys
import numpy as np
from mixbct.errors import SwitchedError
from mixbct.gallery import Gallery
from mixbct.schemas.contract import Contract

url, file, *texts = sys.argv[1:]
contracts = [Contract.model_validate_json(text) for text in texts]
queries, expected = np.load(file).values()
print("ready", flush=True)
seen = [0, 0]
with Gallery.open(url) as gallery:
    while min(seen) < 3 and sum(seen) < 2000:
        for place, contract in enumerate(contracts):
            try:
                hits = gallery.search(queries, contract, 7)
            except SwitchedError:
                continue
            keys = [[hits.items[id].key for id in row] for row in hits.ids.tolist()]
            assert keys == expected[place].tolist(), (place, keys)
            seen[place] += 1
print("seen", *seen, flush=True)
"""


def test_two_processes_search_while_a_third_switches_to_and_fro(
    store, postgres_url, old, new, make_edge, vectors, tmp_path
):
    gallery = Gallery(store)
    edge = make_edge(new, old, seed=3)
    queries = vectors(4, 5)
    expected = []
    gallery.prepare(new, edge)
    for contract, edges in ((old, ()), (new, (edge,))):
        if edges:
            gallery.switch(new, *edges)
        hits = gallery.search(queries, contract, 7)
        expected.append([[hits.items[id].key for id in row] for row in hits.ids.tolist()])
    assert expected[0] != expected[1]
    texts = [contract.model_dump_json() for contract in (old, new)]
    np.savez(tmp_path / "asked.npz", queries=queries, expected=np.array(expected))
    command = [sys.executable, "-c", _SEARCHER, postgres_url, str(tmp_path / "asked.npz"), *texts]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert all(reader.stdout.readline() == "ready\n" for reader in readers)
    while any(reader.poll() is None for reader in readers):
        gallery.rollback()
        gallery.switch(new, edge)
    for reader in readers:
        said = reader.communicate()[0]
        assert reader.returncode == 0
        assert min(map(int, said.split()[1:])) >= 3
