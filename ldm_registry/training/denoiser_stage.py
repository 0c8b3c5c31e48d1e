from ldm_registry.training.job import Job


def denoiser_stage(job: Job):
    yield
