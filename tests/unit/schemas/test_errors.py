import pickle

from schemas.errors import ErrorCode, ImageError


def test_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError(ErrorCode.TRUNCATED, "ends at byte 12")))
    assert error.code is ErrorCode.TRUNCATED
    assert str(error) == "truncated: ends at byte 12"
