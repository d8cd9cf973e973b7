"""All cases by name."""

from benchmarks import encoder_cases, generation_cases, gpt2_cases, led_cases, llama_cases, rag_cases, retrieval_cases
from benchmarks.case import CaseMaker

CASES: dict[str, CaseMaker] = {
    **gpt2_cases.CASES,
    **llama_cases.CASES,
    **encoder_cases.CASES,
    **led_cases.CASES,
    **generation_cases.CASES,
    **rag_cases.CASES,
    **retrieval_cases.CASES,
}
