"""A tokenizer used by several threads: truncation and padding of calls are independent."""

from concurrent.futures import ThreadPoolExecutor


def test_concurrent_calls_are_independent(small):
    small.pad_token = small.eos_token
    text = "a b c d e f g h i j k l m n o p"
    lengths = [2, 5, 9, 17] * 50

    def shape(length):
        return small([text, "x"], padding="max_length", truncation=True, max_length=length).input_ids.shape

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shape, lengths)) == [(2, length) for length in lengths]
