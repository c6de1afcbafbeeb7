"""`mixbct gallery serve`."""

from pathlib import Path

from typer import Option

from mixbct.cli.options import Device, GalleryPlace
from mixbct.cli.output import progress_bar, tell
from mixbct.errors import ServeError
from mixbct.gallery import Gallery
from mixbct.reading import needing_extra
from mixbct.schemas.record import Record


class Served(Record):
    """Where a gallery is served."""

    gallery: str
    url: str
    token: bool


def serve(
    gallery: GalleryPlace,
    host: str = Option("127.0.0.1", help="Address; any but a loopback one needs a token."),
    port: int = Option(8000, min=0, max=65535, help="Port; 0: any that is free."),
    token_file: Path | None = Option(
        None, help="A file with the token that requests must give [MIXBCT_TOKEN]."
    ),
    images: Path | None = Option(
        None, metavar="SOURCE", help="The images that the keys come from, to show them."
    ),
    old_model: Path | None = Option(
        None, help="The old model's folder [of what a rollback would bring back]."
    ),
    both: bool = Option(False, "--both", help="Mix the old model's query in, where it can run."),
    models: Path | None = Option(None, help="A folder of model folders, to switch to by name."),
    hits: bool = Option(False, "--hits", help="Count how often each row is found."),
    device: Device = "cpu",
) -> None:
    """Serve a gallery: a page for people, an API for programs."""
    with needing_extra("serve", "the server", ServeError):
        from mixbct.web.app import make_app
        from mixbct.web.encoders import Encoders, Pictures
        from mixbct.web.observed import HitCounts, Observed
        from mixbct.web.server import check_address, read_token
        from mixbct.web.server import serve as run
        from mixbct.web.serving import Serving
    token = read_token(token_file)
    check_address(host, token)
    with Gallery.open(gallery) as opened:
        serving = Serving(
            opened,
            Encoders(opened, device, old_model),
            Pictures(images),
            Observed(),
            HitCounts(opened.count_hits if hits else None),
            both,
            models,
        )
        app = make_app(serving, token)
        with progress_bar("build the index") as tick:
            opened.prepare(opened.contract(), progress=tick)

        def ready(url: str) -> None:
            served = Served(gallery=opened.place, url=url, token=token is not None)
            tell(served, f"{opened.place} at {url}", then=("gallery", "status", opened.place))

        run(app, host, port, ready)
