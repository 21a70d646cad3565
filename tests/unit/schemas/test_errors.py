import pickle

from schemas.errors import ConfigError, ErrorCode, ImageError


def test_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError(ErrorCode.TRUNCATED, "ends at byte 12")))
    assert error.code is ErrorCode.TRUNCATED
    assert str(error) == "truncated: ends at byte 12"


def test_a_line_end_in_a_name_makes_no_further_line():
    error = pickle.loads(pickle.dumps(ConfigError("no a\nb.png", "limit: expected a number")))
    assert error.lines == ("no a\nb.png", "limit: expected a number")
    assert str(error) == "no a\nb.png\nlimit: expected a number"
    assert ImageError(ErrorCode.NOT_FOUND, "a\nb.png").lines == ("not_found: a\nb.png",)
