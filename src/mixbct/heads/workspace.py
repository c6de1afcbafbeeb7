"""Memory of large arrays, kept from one step to the next."""

from jaxtyping import Float
from torch import Tensor


class Workspace:
    """Memory of a head's large arrays, kept from one step to the next on a processor.

    Fresh memory is handed out page by page as it is first written, which takes half as long as
    a matrix product that writes it. What is lent has no other user until it is given back; what
    never is (a loss without a backward pass) is freed, and made anew.
    """

    def __init__(self) -> None:
        self._idle: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[type["Workspace"], tuple[()]]:
        return Workspace, ()  # whoever copies a head has no use for it

    def lend(self, what: str, rows: int, columns: int, like: Tensor) -> Float[Tensor, "n m"]:
        """Return an array of any content, of the type and on the device of `like`."""
        kept, numbers = self._idle.pop(what, None), rows * columns
        fits = kept is not None and (kept.dtype, kept.device) == (like.dtype, like.device)
        if kept is None or not fits or kept.numel() < numbers:
            kept = like.new_empty(numbers)
        return kept[:numbers].view(rows, columns)

    def give_back(self, what: str, array: Tensor | None) -> None:
        """Take an array whose content nobody needs any more; a GPU's memory is torch's to keep."""
        if array is not None and array.device.type == "cpu":
            # with the array's count of changes, by which autograd knows what was written over
            whole = array.untyped_storage().nbytes() // array.element_size()
            self._idle[what] = array.detach().as_strided((whole,), (1,), 0)
