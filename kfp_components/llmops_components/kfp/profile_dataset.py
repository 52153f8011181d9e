"""KFP component: what is in a data set, as a page to read."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def profile_dataset(
    dataset: Input[Dataset],
    profile: Output[HTML],
    profile_json: Output[Artifact],
    metrics: Output[Metrics],
    result: Output[Artifact],
    compared: Input[Dataset] = None,
    base_model: Input[Model] = None,
    sample_rows: int = 20000,
    seed: int = 0,
):
    """Say what is in a data set: formats, columns, lengths, languages, duplicates, words, clusters and quality.

    The step succeeds whatever it finds; its findings are what deserves a look.

    Args:
        dataset: Rows, in any format.
        profile: The page.
        profile_json: The same for programs.
        metrics: Counts, for the pipelines UI.
        result: Counts, findings and resources of this step.
        compared: Other rows, as of another split: what words and rows both have.
        base_model: Directory of the model whose tokens are counted.
        sample_rows: Rows of the sample of which words, tokens, languages, near duplicates, clusters and quality are told, 100 to 200,000.
        seed: Chooses the sample.
    """
    from functools import partial

    from llmops_components.data.profile import profile_dataset as profile_rows
    from llmops_components.kfp._run import as_page, run_step
    from llmops_components.models.directory import check_model_directory
    from llmops_components.models.loading import load_tokenizer

    as_page(profile)
    run_step(
        "profile_dataset",
        lambda: profile_rows(
            dataset.path,
            profile.path,
            profile_json=profile_json.path,
            compared=compared.path if compared else None,
            tokenizer=partial(load_tokenizer, check_model_directory(base_model.path)) if base_model else None,
            sample_rows=sample_rows,
            seed=seed,
        ),
        outputs={"profile": profile, "profile_json": profile_json},
        metrics=metrics,
        result=result,
    )
