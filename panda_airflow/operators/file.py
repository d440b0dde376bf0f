"""Steps that move files to and from the cache of the PanDA server, and that recover lost files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from panda_airflow.client import TaskFailed, UsageError
from panda_airflow.client.models import Json, Mark
from panda_airflow.operators.polling import PandaPollOperator
from panda_airflow.steps.base import Context, PandaStep
from panda_airflow.steps.once import at_most_once, same_as_sent
from panda_airflow.waiting.polling import PollPlan


class PandaPutFileOperator(PandaStep):
    """Upload a file, such as a sandbox, to the cache, where jobs find it by its name.

    XCom holds its ``name`` there, the ``source_url`` that a task names it with, and its ``size`` in bytes. A repeat
    is harmless: the same name with the same content counts as uploaded.

    :param path: the file on the worker, at most 768 MB if it is called ``sources.*``, 100 MB if ``*.out``, else 10 MB.
    :param reuse: send nothing if the same gzip file was uploaded before by the same user.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "path")
    ui_color = "#d8e8d0"

    def __init__(self, *, path: str, reuse: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.reuse = reuse

    def execute(self, context: Context) -> Json:  # noqa: ARG002
        """Upload the file."""
        file = Path(self.path)
        name = self.client.put_file(file, reuse=self.reuse)
        self.log.info("%s is in the cache as %s.", file, name)
        return {"name": name, "source_url": self.client.cache_url, "size": file.stat().st_size}


class PandaGetFileOperator(PandaStep):
    """Download files from the cache into a directory, and never outside it.

    XCom holds the paths of the files, in the order of their names. A file appears only when it is complete.

    :param names: a name or names below ``/cache/``.
    :param directory: where to put them, on the worker; made if missing.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "names", "directory")
    ui_color = "#d8e8d0"

    def __init__(self, *, names: str | Sequence[str], directory: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = names
        self.directory = directory

    def execute(self, context: Context) -> list[str]:  # noqa: ARG002
        """Download the files."""
        names = [self.names] if isinstance(self.names, str) else list(self.names)
        twins = [name for name, number in Counter(PurePosixPath(name).name for name in names).items() if number > 1]
        if twins:
            raise UsageError(f"several files would be called {twins[0]} in {self.directory}; nothing was downloaded.")
        folder = Path(self.directory)
        folder.mkdir(parents=True, exist_ok=True)
        return [str(self.client.download(name, folder)) for name in names]


class PandaFileRecoveryOperator(PandaPollOperator):
    """Ask PanDA to recover lost files of a task or dataset, and follow the recovery to its end.

    The lines of the server's log go into Airflow's, and into XCom as ``log``. The step succeeds only if the recovery
    did. It asks at most once, since the server would carry out each request. A task that the recovery runs again has
    left its old status when the step ends, but it has not ended again.

    :param jedi_task_id: JediTaskID, or a template that yields it; this or ``dataset`` is needed.
    :param dataset: where to recover files.
    :param files: names of the lost files; found by the server if not given.
    :param dry_run: only say what would be done.
    :param no_child_retry: leave child tasks alone.
    :param resurrect_datasets: bring deleted datasets back.
    :param force: even if no file is lost.
    :param reproduce_parent: run the parent task again if its output, the input here, was deleted.
    :param reproduce_upto_nth_gen: how many generations of parents to run again.
    :param timeout: longest wait for the log; the server looks at requests every few minutes.

    The other parameters are those of :class:`~panda_airflow.operators.polling.PandaPollOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "jedi_task_id", "dataset", "files")

    def __init__(
        self,
        *,
        jedi_task_id: int | str | None = None,
        dataset: str | None = None,
        files: Sequence[str] | None = None,
        dry_run: bool = False,
        no_child_retry: bool = True,
        resurrect_datasets: bool = False,
        force: bool = False,
        reproduce_parent: bool = False,
        reproduce_upto_nth_gen: int = 0,
        timeout: timedelta | float | None = 6 * 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(timeout=timeout, **kwargs)
        self.jedi_task_id = jedi_task_id
        self.dataset = dataset
        self.files = files
        self._only_say = dry_run
        self.no_child_retry = no_child_retry
        self.resurrect_datasets = resurrect_datasets
        self.force = force
        self.reproduce_parent = reproduce_parent
        self.reproduce_upto_nth_gen = reproduce_upto_nth_gen

    def begin(self, context: Context) -> Json:
        """Ask for the recovery, then follow its log."""
        if not (self.jedi_task_id or self.dataset):
            raise UsageError("a recovery needs jedi_task_id or dataset; nothing was sent.")
        task_id = self.task_id_of(self.jedi_task_id) if self.jedi_task_id else None
        same_as_sent(self, context, "the recovery")
        before = asdict(Mark.of(self.client.task.get_detailed_info(task_id))) if task_id else None
        asked = at_most_once(self, context, "the recovery", lambda: {"url": self._request(task_id), "mark": before})
        self.log.info("The recovery writes its log to %s", asked["url"])
        if not self.wait_for_completion:
            return {"log_url": asked["url"]}
        arguments = {"log_name": asked["url"].partition("/cache/")[2], "task_id": task_id, "mark": asked["mark"]}
        what = f"The recovery of {f'PanDA task {task_id}' if task_id else self.dataset}"
        plan = PollPlan("recovery", arguments, what, time.time(), poll_interval=self.poll_interval)
        return self.follow(context, plan)

    def execute_complete(self, context: Context, event: object) -> Json:
        """Show the log; see :meth:`PandaPollOperator.execute_complete`."""
        try:
            value = super().execute_complete(context, event)
        except TaskFailed as failure:
            self._show(str(failure).splitlines())
            raise
        self._show(value["log"])
        return value

    def _show(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.log.info("%s", line)

    def _request(self, task_id: int | None) -> str:
        given = {
            "task_id": task_id,
            "dataset": self.dataset or None,
            "files": list(self.files) if self.files else None,
        }
        reply = self.client.file_server.upload_file_recovery_request(
            dry_run=self._only_say,
            no_child_retry=self.no_child_retry,
            resurrect_datasets=self.resurrect_datasets,
            force=self.force,
            reproduce_parent=self.reproduce_parent,
            reproduce_upto_nth_gen=self.reproduce_upto_nth_gen,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        return reply["logFileURL"]
