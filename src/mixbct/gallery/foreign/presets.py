"""The tables of other products, by what their public schemas say; versions differ, so each looks.

A preset is a function of the catalogue, and only reads. A label names one person or thing: where
two of one name are there, their ids are added.
"""

from collections.abc import Callable, Mapping

from mixbct.errors import DataError
from mixbct.gallery.foreign.tables import Catalogue, Relation, as_text, quoted, table_named

Preset = Callable[[Catalogue, str | None], Relation]


def immich(catalogue: Catalogue, table: str | None) -> Relation:
    """Faces (`face_search`, the usual), or whole images (`smart_search`).

    Faces that were deleted or are hidden are left out, and images in the bin. The table of faces
    was `asset_faces`, is `asset_face`; a face's person is in `personId`, later in `personGroupId`,
    of which each owner of images has a person.
    """
    schema, search = table_named(table or "face_search", catalogue)
    asset = _first(catalogue, schema, "asset", "assets")
    if search == "smart_search":
        return Relation(
            name=f"{schema}.{search}",
            rows=f'{_in(schema, search)} s JOIN {_in(schema, asset)} a ON a.id = s."assetId"',
            key=as_text('s."assetId"'),
            vector="s.embedding",
            where='a."deletedAt" IS NULL',
        )
    faces = _first(catalogue, schema, "asset_face", "asset_faces")
    columns = catalogue[schema, faces]
    rows = f'{_in(schema, search)} s JOIN {_in(schema, faces)} f ON f.id = s."faceId"'
    if "personGroupId" in columns:
        rows += (
            f' JOIN {_in(schema, asset)} a ON a.id = f."assetId" LEFT JOIN '
            f"{_named(schema, 'person', 'personGroupId', 'name', 'ownerId')} p ON "
            'p.id = f."personGroupId" AND p."ownerId" = a."ownerId"'
        )
        person = 'f."personGroupId"'
    else:
        people = _named(schema, "person", "id", "name")
        rows, person = f'{rows} LEFT JOIN {people} p ON p.id = f."personId"', 'f."personId"'
    return Relation(
        name=f"{schema}.{search}",
        rows=rows,
        key=as_text("f.id"),
        vector="s.embedding",
        label=f"coalesce(p.label, {as_text(person)})",
        where='f."deletedAt" IS NULL' + ' AND f."isVisible"' * ("isVisible" in columns),
    )


def compreface(catalogue: Catalogue, table: str | None) -> Relation:
    """`embedding` with its subjects; before version 0.6, `face`, where the vector is JSON."""
    has_new = any(name == "embedding" for _, name in catalogue)
    schema, found = table_named(table or ("embedding" if has_new else "face"), catalogue)
    if found == "face":
        json, calculator = "f.embeddings -> 'embeddings'", "f.embeddings ->> 'calculatorVersion'"
        return Relation(
            name=f"{schema}.{found}",
            rows=f"{_in(schema, found)} f",
            key=as_text("f.id"),
            vector=f"ARRAY(SELECT x::float8 FROM jsonb_array_elements_text({json}) AS x)",
            label=as_text("f.face_name"),
            contract=f"({calculator})",
        )
    subject = _named(schema, "subject", "id", "subject_name")
    return Relation(
        name=f"{schema}.{found}",
        rows=f"{_in(schema, found)} e JOIN {subject} s ON s.id = e.subject_id",
        key=as_text("e.id"),
        vector="e.embedding",
        label="s.label",
        contract="e.calculator",
    )


def deepface(catalogue: Catalogue, table: str | None) -> Relation:
    """`embeddings_MODEL_DETECTOR_…` with pgvector, or one table `embeddings` without it.

    How faces were found and aligned is part of the contract, as it is of the table's name. An
    image may hold several faces, so that a key is its name and the row's number.
    """
    said = ("model_name", "detector_backend", "aligned", "l2_normalized")
    found = [
        (schema, name)
        for (schema, name), columns in catalogue.items()
        if {"img_name", "embedding", *said} <= columns.keys()
    ]
    if table is None and len(found) != 1:
        listed = ", ".join(f"{schema}.{name}" for schema, name in found)
        raise DataError(
            f"there are {len(found)} tables as deepface makes them ({listed}): choose with --table"
        )
    schema, name = table_named(table, catalogue) if table else found[0]
    made = "CASE WHEN {} THEN '{}' ELSE '{}' END"
    return Relation(
        name=f"{schema}.{name}",
        rows=_in(schema, name),
        key="img_name || '#' || id",
        vector="embedding",
        contract=(
            "concat_ws(' ', model_name, detector_backend, "
            f"{made.format('aligned', 'aligned', 'unaligned')}, "
            f"{made.format('l2_normalized', 'norm', 'raw')})"
        ),
    )


def insightface_server(catalogue: Catalogue, table: str | None) -> Relation:
    """`face_samples` of its SQLite file; what it says of its model is the contract's name."""
    schema, name = table_named(table or "face_samples", catalogue)
    columns = catalogue[schema, name]
    said = ("model_id", "model_version", "model_digest", "preprocessing_version")
    known = [f"coalesce(' ' || {column}, '')" for column in said if column in columns]
    return Relation(
        name=name,
        rows=_in(schema, name),
        key=as_text("id"),
        vector="embedding",
        label=as_text("person_id"),
        contract=f"ltrim({' || '.join(known)})" if known else "",
    )


PRESETS: Mapping[str, tuple[str, Preset]] = {
    "immich": ("postgres", immich),
    "compreface": ("postgres", compreface),
    "deepface": ("postgres", deepface),
    "insightface-server": ("sqlite", insightface_server),
}
"""Name → the database that the product keeps its vectors in, and how it is read."""


def _in(schema: str, table: str) -> str:
    return f"{quoted(schema)}.{quoted(table)}"


def _first(catalogue: Catalogue, schema: str, *names: str) -> str:
    """Return the name, of those that a table had in one version or another, that it has here."""
    for name in names:
        if (schema, name) in catalogue:
            return name
    raise DataError(
        f"there is no table {' or '.join(names)} beside the vectors in the schema {schema!r}: is "
        "it that product's database? Any table can be read with --table, --key and --vector"
    )


def _named(schema: str, table: str, id: str, name: str, *more: str) -> str:
    """Return a subquery of id and label of a table of people, with an id where names are shared."""
    _id, _name, owners = quoted(id), quoted(name), "".join(f", {quoted(each)}" for each in more)
    return (
        f"(SELECT {_id} AS id{owners}, CASE WHEN {_name} = '' THEN {as_text(_id)} "
        f"WHEN count(*) OVER (PARTITION BY {_name}) > 1 THEN {_name} || ' ' || {_id} "
        f"ELSE {_name} END AS label FROM {_in(schema, table)})"
    )
