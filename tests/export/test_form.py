import pytest

from larq_seresnet.export import form


def test_every_way_to_store_filters_is_listed():
    """By hand, for other tests and benchmarks go through this list."""
    lce = [(each.weights, each.memory, each.strip) for each in form.forms("lce", strip=True)]
    assert lce == [
        ("1bit_half", "least", True),
        ("1bit_half", "fewest-bytes", True),
        ("1bit", "least", True),
        ("1bit", "fewest-bytes", True),
        ("float32", None, True),
    ]
    litert = [(each.weights, each.memory) for each in form.forms("litert")]
    assert litert[:4] == [each[:2] for each in lce[:4]]
    assert litert[4:] == [("int2", None), ("int4", None), ("int8", None), ("float32", None)]


def test_tflm_unpacks_bits_as_it_reads_them():
    pytest.importorskip("tflite_micro")
    found = [(each.weights, each.memory) for each in form.forms("tflm")]
    assert found == [("1bit", None), ("int4", None), ("int8", None)]
    assert form.Form("tflm", output_type="int8").stem == "tflm_1bit"


def test_files_are_named_by_what_they_differ_in():
    assert form.Form().stem == form.Form(memory="least", strip=True).stem == "lce_1bit"
    other = form.Form("litert", "1bit_half", "fewest-bytes", "uint8", "int8")
    assert other.stem == "litert_1bit_half_fewest_bytes_uint8_in_int8_out"


def test_what_no_runtime_computes_is_refused():
    for arguments, message in (
        (("x",), "`runtime` must be one of 'lce', 'litert', 'tflm', received 'x'"),
        (("lce", "int2"), "--weights int2 is not for --runtime lce: it must be one of 1bit_half, "),
        (("litert", "int8", "least"), "--memory least is for .*, received litert and int8"),
    ):
        with pytest.raises(ValueError, match=message):
            form.Form(*arguments)
