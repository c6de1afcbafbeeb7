"""A plain vision transformer for faces (Dosovitskiy et al., ICLR 2021).

Square patches through a linear map, learned positions, pre-normalised blocks of attention and a
two-layer perceptron. As in face recognition (insightface's `vit_t`, `vit_s`, `vit_b`) there is no
class token: the tokens of all patches, in order, go through two linear maps, each with a batch
normalisation, to the embedding. Weights of insightface's models do not fit: theirs cuts patches of
9 pixels and masks tokens, this one cuts patches of 8, so that 112 pixels leave none over.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixbct.errors import ModelError

HEADS, EXPANSION = 8, 4


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, EXPANSION * width),
            nn.GELU(),
            nn.Linear(EXPANSION * width, width),
        )

    def forward(self, x: Float[Tensor, "b t w"]) -> Float[Tensor, "b t w"]:
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (3, HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [b, HEADS, t, w / HEADS]
        seen = F.scaled_dot_product_attention(query, key, value)
        x = x + self.project(seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(x)
        return out


class VisionTransformer(nn.Module):
    """Map [B, C, size, size] to [B, dim].

    Args:
        width: of a token: 256 is vit_t, 512 vit_s and vit_b; a multiple of 8, the number of heads.
        dim: of the embedding.
        size: height and width of the input, a multiple of `patch`.
        channels: 1 or 3.
        patch: height and width of a patch in pixels.
        depth: number of blocks: 24 is vit_b.
    """

    def __init__(
        self, width: int, dim: int, size: int, channels: int, patch: int = 8, depth: int = 12
    ) -> None:
        super().__init__()
        if patch < 1 or size % patch:
            raise ModelError(
                f"backbone 'vit' cuts its input into patches of {patch} pixels: model.size must be "
                f"a multiple of model.options.patch, found {size}"
            )
        tokens = (size // patch) ** 2
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(self.patches.weight.new_zeros(tokens, width))
        self.blocks = nn.Sequential(*[_Block(width) for _ in range(depth)])
        self.embedding = nn.Sequential(
            nn.LayerNorm(width),
            nn.Flatten(),
            nn.Linear(tokens * width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.Linear(width, dim, bias=False),
            nn.BatchNorm1d(dim),
        )
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the raw embeddings."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.embedding(self.blocks(tokens))
        return out
