"""What is printed of the recipes that the package carries."""

from pydantic import Field

from mixbct.schemas.record import Record


class RecipeList(Record):
    """The recipes by name, and what each is for."""

    recipes: dict[str, str]


class RecipeCopy(Record):
    """Where a recipe was written."""

    name: str
    file: str = Field(description="what `mixbct train` or `mixbct bench` is given")
