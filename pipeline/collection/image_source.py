"""The one way from an image's reference to its pixels: all parts of ovseg read images here.

A source is a file, or a member of an archive (`archives`). Its lister in `collect` writes into
`ImageRef.uri` all that it takes to find the image again, and `read_bytes` returns the content of an
image file for it (a frame that is not a file: as BMP). Nothing else looks into a URI, so the job,
the review page, exports, contact sheets and the training of heads can use a new source at once.
Every reader says from which places it may read (`ImagePlaces`).
"""

from ovseg_core.images.decoding.decode import DecodedImage, decode
from pipeline.collection import packed
from pipeline.storage import uris
from pipeline.storage.folder import FileParts, read_image_file
from pipeline.storage.places import ImagePlaces
from schemas.config import ImageConfig
from schemas.records import ImageRef


def read_bytes(ref: ImageRef, max_bytes: int, places: ImagePlaces) -> bytes:
    """Return an image as the content of a file.

    Args:
        ref: the image.
        max_bytes: larger ones are refused before they are read; 0: no limit.
        places: from where it may be read; `permission_denied` elsewhere.

    Raises:
        ImageError: `not_found`, `permission_denied`, `storage_error`, `empty_file`, `too_large`,
            `truncated` for a member of an archive that is cut off, or `not_an_image` for a folder
            or pipe.
    """
    member = uris.member_of(ref.uri)
    if member is not None:
        return packed.read_member(member, max_bytes, FileParts(member.archive, places))
    return read_image_file(ref.uri, places, max_bytes, ref.size_bytes)


def read_image(
    ref: ImageRef, config: ImageConfig, places: ImagePlaces, side_px: int = 0
) -> DecodedImage:
    """Return an image's pixels.

    Args:
        ref: the image.
        config: limits.
        places: from where it may be read.
        side_px: pixels on the shorter side that are enough, see `decode`; 0: full size.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    return decode(read_bytes(ref, config.max_bytes, places), config, side_px)
