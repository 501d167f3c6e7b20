"""tmp"""


def build_executor(profile, topology):
    import nemo_run as run

    assert profile.kind == "slurm"
    t = profile.tunnel
    tun = (
        run.LocalTunnel(job_dir="")
        if t is None or t.kind == "local"
        else run.SSHTunnel(host=t.host, user=t.user, port=t.port, identity=t.identity, job_dir=t.job_dir)
    )
    return run.SlurmExecutor(
        nodes=topology.get("nodes") or 1,
        ntasks_per_node=topology.get("tasks_per_node") or 1,
        launcher=topology.get("launcher"),
        packager=run.Packager(),
        tunnel=tun,
        poll_estimated_start_time=False,
        dependency_type="afterany",
        **{"job_name_prefix": "gitexp-", **profile.options},
    )
