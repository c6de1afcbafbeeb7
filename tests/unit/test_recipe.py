"""The recipe refuses what it does not know, and says so well."""

import ast
import contextlib
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest

import mixbct
from mixbct import recipe as recipe_module
from mixbct.backbones.model import BACKBONES, VECTOR_BACKBONES
from mixbct.errors import CheckpointError, RecipeError
from mixbct.recipe import (
    AdamWSettings,
    MixBCTSettings,
    Recipe,
    Settings,
    apply_overrides,
    load_recipe,
    parse_recipe,
)
from mixbct.schemas.record import read_record

TEXT = """
name = "tiny"
[data]
path = "photos"
[head]
name = "arcface"
[method]
name = "mixbct"
bank = "bank"
[optimizer]
name = "sgd"
[train]
epochs = 3
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, list(overrides))
    return str(caught.value)


def test_a_recipe_is_read(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.data.path == Path("photos")
    assert isinstance(recipe.method, MixBCTSettings)
    assert (recipe.method.bank, recipe.method.draw, recipe.method.ratio) == (
        Path("bank"),
        "bank",
        0.3,
    )
    assert recipe.train.epochs == 3


ROOT = Path(__file__).parents[2]
PACKAGE = Path(mixbct.__file__).parent
# those of a bench are of another kind (tests/unit/workflows)
RECIPES = [path for path in PACKAGE.glob("**/*.toml") if path.parent.name != "bench"]


@pytest.mark.parametrize("recipe", sorted(RECIPES), ids=lambda p: "/".join(p.parts[-3:]))
def test_the_recipes_of_the_project_are_valid(recipe: Path) -> None:
    assert load_recipe(recipe).name == recipe.stem
    assert load_recipe(recipe).model.backbone in {*BACKBONES, *VECTOR_BACKBONES}


@pytest.mark.parametrize(
    ("override", "key", "close", "allowed"),
    [
        ("train.epoch=1", "train.epoch", "epochs", "checkpoint_every"),
        (
            "method.ration=0.1",
            "method.ration",
            "ratio",
            "bank, contrast, draw, full_weight, gallery_map, label_map, name, negatives, "
            "old_weight, partner, query_map, ratio, readout, temperature",
        ),
        ("head.scael=3", "head.scael", "scale", "margin, name, sample, scale"),
        ("optimizer.momentun=0", "optimizer.momentun", "momentum", "lr, momentum, name"),
        ("modle.dim=3", "modle", "model", "data, head, method, model"),
        ("data.shifts=3", "data.shifts", "shift", "flip, part, path, shift, split"),
    ],
)
def test_an_unknown_key_is_named_with_what_is_allowed(
    path: Path, override: str, key: str, close: str, allowed: str
) -> None:
    message = refusal(path, override)
    assert str(path) in message
    assert f"  {key}: unknown key; did you mean {close!r}? allowed here: " in message
    assert allowed in message


def test_an_unknown_key_that_is_like_no_other(path: Path) -> None:
    message = refusal(path, "train.zzzzzz=1")
    assert "train.zzzzzz: unknown key; allowed here: batch, " in message
    assert "did you mean" not in message


def test_a_setting_of_another_method_or_head_is_said_to_be_that(path: Path) -> None:
    """Even where one of the method's own is alike: query_map, here."""
    message = refusal(path, "method.name=l2", "method.gallery_map=projection")
    assert "method.gallery_map: unknown key; it is a setting of mixbct; allowed here: " in message
    assert "it is a setting of arcface, cosface; " in refusal(
        path, "head.name=softmax", "head.margin=1"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs=0", "train.epochs: Input should be greater than 0; found 0"),
        ("train.epochs=1.5", "train.epochs: "),
        ('train.epochs="3"', "train.epochs: Input should be a valid integer; found '3'"),
        ("train.epochs=true", "train.epochs: Input should be a valid integer; found True"),
        ("train.epochs=[1]", "train.epochs: "),
        ("train.batch=1", "train.batch: Input should be greater than 1; found 1"),
        ("train.clip=0", "train.clip: Input should be greater than 0"),
        ("optimizer.lr=nan", "optimizer.lr: Input should be a finite number; found nan"),
        ("optimizer.lr=inf", "optimizer.lr: Input should be a finite number; found inf"),
        ("optimizer.lr=-0.1", "optimizer.lr: "),
        ("optimizer.momentum=1", "optimizer.momentum: Input should be less than 1"),
        ("method.ratio=1.0", "method.ratio: Input should be less than 1; found 1.0"),
        ("method.draw=random", "method.draw: Input should be 'replace', 'skip' or 'bank'"),
        ('data.flip="no"', "data.flip: Input should be a valid boolean; found 'no'"),
        ("data.flip=1", "data.flip: Input should be a valid boolean; found 1"),
        ("data.path=3", "data.path: "),
        ("model.size=32.0", "model.size: Input should be a valid integer; found 32.0"),
        ("model.channels=2", "model.channels: Input should be 1 or 3; found 2"),
        ("name=a/b", "name: String should match pattern"),
        ("seed=-1", "seed: "),
        ("seed=9223372036854775808", "seed: "),
        ("train=3", "train: "),
        ("head=arcface", "head: "),
    ],
)
def test_a_wrong_value_is_named(path: Path, override: str, expected: str) -> None:
    message = refusal(path, override)
    assert f"{path} is not a valid recipe:\n  {expected}" in message


@pytest.mark.parametrize(
    ("section", "choices"),
    [
        ("head", "arcface, cosface, softmax"),
        ("method", "independent, l2, weakened_l2, advbct, bct, unibct, nccl, mixbct"),
        ("optimizer", "sgd, adamw"),
    ],
)
def test_unknown_names_list_the_choices(path: Path, section: str, choices: str) -> None:
    message = refusal(path, f"{section}.name=foo")
    assert f"{section}.name: choose one of {choices}; found " in message
    assert "'foo'" in message


def test_missing_keys_and_sections_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\n[method]\nname = "mixbct"\n[head]\nscale = 3\n')
    message = refusal(tmp_path / "a.toml")
    for line in ("data: missing", "method.bank: missing", "optimizer: missing", "train: missing"):
        assert f"  {line}" in message
    assert "  head.name: choose one of arcface, cosface, softmax" in message


def test_all_problems_are_told_at_once(path: Path) -> None:
    message = refusal(path, "train.epochs=0", "data.foo=1", "head.margin=9")
    assert len(message.splitlines()) == 4


def test_mixing_with_a_softmax_head_is_refused(path: Path) -> None:
    message = refusal(path, "head.name=softmax")
    assert "mixes old and new features" in message
    assert "'arcface' or 'cosface'" in message
    load_recipe(path, ["head.name=softmax", 'method={name = "independent"}'])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a.b=3", 3),
        ("a.b=0.5", 0.5),
        ("a.b=1e-3", 1e-3),
        ("a.b=true", True),
        ('a.b="true"', "true"),
        ("a.b=plain words", "plain words"),
        ("a.b=runs/old", "runs/old"),
        ("a.b=x=y", "x=y"),
        ('a.b=""', ""),
        ("a.b=" + "9" * 5000, "9" * 5000),
        ("a.b=" + "[" * 100_000, "[" * 100_000),
        ("a.b=東京\u3000駅", "東京\u3000駅"),
        ("a.b=[1, 2]", [1, 2]),
        (" a.b = 3 ", 3),
    ],
    ids=lambda value: str(value)[:20],
)
def test_overrides_are_read_as_toml_or_else_as_text(override: str, value: object) -> None:
    content: dict[str, Any] = {"a": {"b": None, "c": 1}}
    found = apply_overrides(content, [override])["a"]
    assert found == {"b": value, "c": 1}
    assert type(found["b"]) is type(value)


def test_overrides_reach_the_recipe(path: Path) -> None:
    recipe = load_recipe(
        path,
        [
            "method.ratio=0.5",
            "train.epochs=7",
            "data.flip=true",
            "model.options.width=8",
            "data.split=runs/split",
            "data.path=elsewhere",
            "train.epochs=8",
        ],
    )
    assert isinstance(recipe.method, MixBCTSettings)
    assert recipe.method.ratio == 0.5
    assert recipe.train.epochs == 8  # the last one counts
    assert recipe.data.flip is True
    assert recipe.model.options == {"width": 8}
    assert (recipe.data.split, recipe.data.path) == (Path("runs/split"), Path("elsewhere"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "expected key=value"),
        ("", "expected key=value"),
        ("=3", "expected key=value"),
        ("name.first=3", "'name' is a value, not a section"),
        ("train.epochs.x=3", "'epochs' is a value, not a section"),
        ("data.path=\udcff", "expected key=value in UTF-8"),
        ("data.path=a\0b", "expected key=value in UTF-8"),
    ],
)
def test_bad_overrides_are_named(path: Path, override: str, expected: str) -> None:
    message = refusal(path, override)
    assert repr(override) in message
    assert expected in message


def test_an_override_takes_a_key_out(path: Path) -> None:
    words = ["method.ratio=0.5", "data.split=runs/split", "train.warmup_steps=3"]
    taken = load_recipe(path, [*words, "method.ratio=", "data.split=", "train.nothing="])
    assert taken == load_recipe(path, ["train.warmup_steps=3"])
    assert "optimizer: missing" in refusal(path, "optimizer=")


def test_another_name_takes_out_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    more = 'name = "mixbct"\nratio = 0.5\nquery_map = "prefix"'
    path.write_text(TEXT.replace('name = "mixbct"', more))
    recipe = load_recipe(path, ["method.weight=3.0", "method.name=l2"])
    assert recipe.method.model_dump(exclude_unset=True) == {
        **{"name": "l2", "weight": 3.0, "bank": Path("bank"), "query_map": "prefix"}
    }
    independent = load_recipe(path, ["method.name=independent", "head.name=softmax"])
    assert independent.method.model_dump() == {"name": "independent"}
    # what is set by hand is not taken out in silence, in whatever order
    assert "method.ratio: unknown key" in refusal(path, "method.ratio=0.2", "method.name=l2")
    # the recipe's own name names no kind
    assert load_recipe(path, ["name=l2"]).method == load_recipe(path).method


@pytest.mark.parametrize(
    "text",
    [
        "seed = " + "9" * 5000,
        "seed = " + "9" * 399,
        "seed = " + "[" * 1_000_000,
        "seed = " + "{a=" * 100_000,
        'part = "a\\u0000b"',
        "a" + ".a" * 10_000 + " = 3",
        "[" + "a." * 10_000 + "a]",
        "name = 1979-05-27",
        "train.epochs = 99999999999999",
        "model.dim = 99999999999999",
        "model.options.width = 99999999999999999999",
        "train.threads = 99999999999999",
        "method.negatives = 99999999999999",
    ],
    ids=lambda text: text[:24],
)
def test_no_text_gives_a_traceback_or_a_page(path: Path, tmp_path: Path, text: str) -> None:
    path.write_text(f"{text}\n{TEXT.replace('[data]', 'data.part = 3' + chr(10) + '[data]')}")
    assert len(refusal(path)) < 2000
    other = tmp_path / "other.toml"
    other.write_text('extends = "tiny.toml"\n' + text)
    assert len(refusal(other)) < 2000


def test_no_mutation_of_a_recipe_gives_a_traceback(path: Path) -> None:
    rng, good = random.Random(0), TEXT.encode()
    for _ in range(400):
        content = bytearray(good)
        place = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                del content[place : place + rng.randint(1, 30)]
            case 2:
                content[place:place] = rng.choice(
                    [b"9" * 5000, b"[" * 10_000, b"\0", b"\xff", b"\r", b'"""', b"a.b.", b"{"]
                )
            case _:
                del content[place:]
        path.write_bytes(content)
        with contextlib.suppress(RecipeError):
            load_recipe(path)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    assert "there is no recipe at" in refusal(tmp_path / "none.toml")
    assert "cannot be read as a recipe: it is a folder" in refusal(tmp_path)
    (tmp_path / "bad.toml").write_text("name = ")
    assert "bad.toml is not valid TOML" in refusal(tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "bytes.toml is not valid TOML" in refusal(tmp_path / "bytes.toml")


def test_a_recipe_survives_json(path: Path, tmp_path: Path) -> None:
    text = TEXT.replace('name = "sgd"', 'name = "adamw"')
    recipe = parse_recipe(
        tomllib.loads(text) | {"model": {"options": {"a": True, "b": 1, "c": 1.0, "d": "x"}}}, "x"
    )
    assert isinstance(recipe.optimizer, AdamWSettings)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    again = read_record(tmp_path / "recipe.json", Recipe, CheckpointError, "recipe")
    assert again == recipe
    assert [type(v) for v in again.model.options.values()] == [bool, int, float, str]
    assert again.digest() == recipe.digest()


def test_the_digest_ignores_what_may_change_on_resuming(path: Path) -> None:
    digest = load_recipe(path).digest()
    free = {"train.stop_after", "train.checkpoint_every"}
    changes = [*(f"{key}=5" for key in free), "train.device=cuda"]
    assert load_recipe(path, changes).digest() == digest
    for key in ("train.epochs=5", "seed=5", "train.threads=5", "method.bank=x", "name=x"):
        assert load_recipe(path, [key]).digest() != digest


@pytest.mark.parametrize("name", ["bct", "unibct", "nccl", "mixbct"])
def test_methods_of_class_weights_need_a_cosine_head(path: Path, name: str) -> None:
    method = f'method={{name = "{name}", bank = "bank"}}'
    load_recipe(path, [method])
    assert f"method {name!r} mixes" in refusal(path, method, "head.name=softmax")


@pytest.mark.parametrize("name", ["l2", "weakened_l2", "advbct"])
def test_methods_of_features_alone_take_any_head(path: Path, name: str) -> None:
    load_recipe(path, [f'method={{name = "{name}", bank = "bank"}}', "head={name = 'softmax'}"])


# ------------------------------------------------ a field that no code reads is a dead option

SECTIONS = {
    "DataSettings": "data",
    "ModelSettings": "model",
    "TrainSettings": "train",
    "ArcFaceSettings": "head",
    "CosFaceSettings": "head",
    "SoftmaxSettings": "head",
    "IndependentSettings": "method",
    "CompatibleSettings": "method",
    "L2Settings": "method",
    "WeakenedL2Settings": "method",
    "BCTSettings": "method",
    "UniBCTSettings": "method",
    "NCCLSettings": "method",
    "AdvBCTSettings": "method",
    "MixBCTSettings": "method",
    "SGDSettings": "optimizer",
    "AdamWSettings": "optimizer",
}
"""Settings class → the section of the recipe that holds it."""


def annotated_as(annotation: ast.expr | None) -> set[str]:
    words = (
        set()
        if annotation is None
        else {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
    )
    return words & {*SECTIONS, "Recipe"}


def reads_of(tree: ast.Module, inside_recipe: bool) -> set[tuple[str, str]]:
    """Return (class or section, field) of every read of a setting in a module.

    A read is `….section.field`, `name.field` or `self.name.field` where `name` was annotated as a
    settings class or assigned from `….section`, a keyword of a class pattern,
    `getattr(….section, "field")`, or all of a section as keyword arguments; in the recipe's own
    module `self.field` in a method of the class.
    """
    found: set[tuple[str, str]] = set()
    holders: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            holders.setdefault(node.arg, set()).update(annotated_as(node.annotation))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            holders.setdefault(node.target.id, set()).update(annotated_as(node.annotation))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    holders.setdefault(target.id, set()).add(node.value.attr)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Name) and function.id == "load_recipe":
                assert isinstance(node.targets[0], ast.Name)
                holders.setdefault(node.targets[0].id, set()).add("Recipe")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Attribute):
                found.add((node.value.attr, node.attr))
                found |= {(holder, node.attr) for holder in holders.get(node.value.attr, set())}
            elif isinstance(node.value, ast.Name):
                found |= {(holder, node.attr) for holder in holders.get(node.value.id, set())}
                if node.value.id == "recipe":
                    found.add(("Recipe", node.attr))
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name):
            found |= {(node.cls.id, keyword) for keyword in node.kwd_attrs}
        match node:  # getattr(recipe.section, "field", …)
            case ast.Call(
                func=ast.Name(id="getattr"),
                args=[ast.Attribute(attr=section), ast.Constant(value=field), *_],
            ):
                found.add((section, field))
            case ast.keyword(  # **recipe.section.model_dump(…)
                arg=None,
                value=ast.Call(func=ast.Attribute(ast.Attribute(attr=section), "model_dump")),
            ):
                found.add((section, "*"))
        if inside_recipe and isinstance(node, ast.ClassDef):
            found |= {
                (node.name, read.attr)
                for read in ast.walk(node)
                if isinstance(read, ast.Attribute)
                and isinstance(read.value, ast.Name)
                and read.value.id == "self"
            }
    return found


def test_every_field_is_read_by_some_code() -> None:
    reads: set[tuple[str, str]] = set()
    for path in Path(mixbct.__file__).parent.rglob("*.py"):
        reads |= reads_of(ast.parse(path.read_text()), path.name == "recipe.py")
    classes = {
        name: value
        for name, value in vars(recipe_module).items()
        if isinstance(value, type) and issubclass(value, Settings) and value is not Settings
    }
    assert set(classes) == {*SECTIONS, "Recipe"}
    dead = [
        f"{name}.{field}"
        for name, settings in classes.items()
        for field in settings.model_fields
        if not {(base.__name__, field) for base in settings.__mro__} & reads
        and (SECTIONS.get(name), field) not in reads
        and (SECTIONS.get(name), "*") not in reads
        # names of variants are read by pydantic, which chooses the class by them
        and not (field == "name" and SECTIONS.get(name) == "optimizer")
    ]
    assert dead == []


def test_a_dead_field_would_be_seen() -> None:
    source = (
        "def f(settings: TrainSettings, recipe: Recipe):\n"
        "    data = recipe.data\n"
        "    return settings.epochs, data.shift, recipe.model.dim, settings.other.flip\n"
    )
    reads = reads_of(ast.parse(source), False)
    assert {("TrainSettings", "epochs"), ("data", "shift"), ("model", "dim")} <= reads
    assert not any(field in ("batch", "clip", "size") for _, field in reads)
    assert ("data", "flip") not in reads


def write(folder: Path, **texts: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)


def test_a_recipe_extends_another_table_by_table(path: Path, tmp_path: Path) -> None:
    write(tmp_path, middle='extends = "tiny.toml"\nname = "middle"\n[train]\nbatch = 16\n')
    write(
        tmp_path / "deeper",
        top='extends = "../middle.toml"\n[train]\npower = 2.0\n[data]\nflip = true\n'
        "[method]\nratio = 0.5\n[model.options]\nwidth = 3\n",
    )
    recipe = load_recipe(tmp_path / "deeper" / "top.toml", ["train.power=3.0"])
    written = parse_recipe(
        {
            "name": "middle",
            "data": {"path": "photos", "flip": True},
            "model": {"options": {"width": 3}},
            "head": {"name": "arcface"},
            "method": {"name": "mixbct", "bank": "bank", "ratio": 0.5},
            "optimizer": {"name": "sgd"},
            "train": {"epochs": 3, "batch": 16, "power": 3.0},
        },
        "x",
    )
    assert recipe == written
    assert recipe.digest() == written.digest()


def test_a_table_of_another_name_replaces_the_one_below(path: Path, tmp_path: Path) -> None:
    write(
        tmp_path,
        top='extends = "tiny.toml"\n[method]\nname = "independent"\n'
        '[optimizer]\nname = "sgd"\nlr = 0.5\n',
        over='extends = "top.toml"\n[optimizer]\nname = "sgd"\nmomentum = 0.5\n',
    )
    recipe = load_recipe(tmp_path / "over.toml")
    assert recipe.method.model_dump() == {"name": "independent"}
    assert recipe.optimizer.model_dump() == {
        **{"name": "sgd", "lr": 0.5, "momentum": 0.5, "weight_decay": 5e-4}
    }


def test_recipes_that_extend_nothing_good(path: Path, tmp_path: Path) -> None:
    write(
        tmp_path,
        none='extends = "gone.toml"\n',
        number="extends = 3\n",
        itself='extends = "itself.toml"\n',
        a='extends = "b.toml"\n',
        b='extends = "../' + tmp_path.name + '/a.toml"\n',
        bad='extends = "broken.toml"\n',
        broken="name = ",
        typo='extends = "tiny.toml"\n[train]\nepoch = 3\n',
    )
    none = refusal(tmp_path / "none.toml")
    assert none == (f"there is no recipe that {tmp_path}/none.toml extends at {tmp_path}/gone.toml")
    assert "extends: expected the path of a recipe, found 3" in refusal(tmp_path / "number.toml")
    assert "in a circle" in refusal(tmp_path / "itself.toml")
    circle = refusal(tmp_path / "a.toml")
    assert f"in a circle: {tmp_path}/a.toml → {tmp_path}/b.toml → " in circle
    assert "bad.toml extends must be" in refusal(tmp_path / "bad.toml")
    typo = refusal(tmp_path / "typo.toml")
    assert f"typo.toml (with {tmp_path}/tiny.toml) is not a valid recipe" in typo
    assert "did you mean 'epochs'" in typo
    assert "extends: unknown key" in refusal(path, "extends=b.toml")


def test_the_published_recipes_say_what_was_published() -> None:
    folder = ROOT / "recipes" / "ms1mv3"
    recipes = {path.stem: load_recipe(path) for path in folder.glob("*.toml")}
    for name, recipe in recipes.items():
        old, vit = name.startswith("old-"), "-vit" in name
        assert recipe.data.part == ("old_train" if old else "new_train")
        backbone = "iresnet18" if old else "vit_t" if vit else "iresnet50"
        assert recipe.model.backbone == backbone
        assert (recipe.train.epochs, recipe.train.batch, recipe.train.clip) == (35, 1024, 5.0)
        if not vit:
            assert recipe.optimizer.model_dump() == {
                **{"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
            }
            assert (recipe.train.power, recipe.train.warmup_steps) == (2.0, 0)
    olds = {n: (r.head.name, r.model.dim) for n, r in recipes.items() if n.startswith("old-")}
    assert olds == {
        "old-softmax-128": ("softmax", 128),
        "old-softmax-256": ("softmax", 256),
        "old-softmax-512": ("softmax", 512),
        "old-arcface-512": ("arcface", 512),
    }
    # a method's recipe is an independent one but for its method
    independent = recipes["new-independent"].model_dump(exclude={"name", "method"})
    assert recipes["new-mixbct"].model_dump(exclude={"name", "method"}) == independent
