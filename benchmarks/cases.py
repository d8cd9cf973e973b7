"""All cases by name."""

from benchmarks import decoder_cases, encoder_cases, generation_cases, gpt2_cases, led_cases, rag_cases, retrieval_cases
from benchmarks.case import CaseMaker

CASES: dict[str, CaseMaker] = {
    **decoder_cases.CASES,
    **gpt2_cases.CASES,
    **encoder_cases.CASES,
    **led_cases.CASES,
    **generation_cases.CASES,
    **rag_cases.CASES,
    **retrieval_cases.CASES,
}
