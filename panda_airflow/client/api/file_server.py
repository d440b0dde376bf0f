"""Server module ``file_server``: sandboxes, logs, checkpoints and requests that travel as files."""

from __future__ import annotations

from pathlib import Path

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import CacheFile, Envelope, Json


def looked_up(envelope: Envelope) -> bool:
    """Tell an answer from a failure: that no such file is there is an answer too."""
    return envelope.success or envelope.message == "NOTFOUND"


class FileServerApi(ApiModule):
    """Methods below ``/api/v1/file_server/``."""

    @endpoint("POST", "file_server/upload_cache_file", idempotent=True, upload="file")
    def upload_cache_file(self, file: Path) -> None:
        """Upload a sandbox or another file under its own name to the cache, where anybody can download it.

        A repeat is harmless: the server keeps the first upload, renews its time of expiry and refuses.

        :param file: at most 768 MB if named ``sources.*``, 100 MB if ``*.out``, otherwise 10 MB.
        :raises InvalidArgument: the file is too large.
        :raises Refused: the name is taken (``cannot overwrite file``).
        """

    @endpoint("POST", "file_server/validate_cache_file", idempotent=True, ok=looked_up)
    def validate_cache_file(self, file_size: int, checksum: int | str) -> CacheFile:
        """Ask whether a file that the caller uploaded is still in the cache.

        :param file_size: bytes.
        :param checksum: the CRC32 in the gzip footer, as an unsigned number: bytes -8 to -4, little endian.
        :return: empty, and false, if there is no such file of the caller.
        """

    @endpoint("POST", "file_server/touch_cache_file", idempotent=True)
    def touch_cache_file(self, file_name: str) -> None:
        """Renew the time of expiry of a cache file.

        :param file_name: its name in the cache.
        :raises Refused: there is no such file.
        """

    @endpoint("POST", "file_server/delete_cache_file", idempotent=True)
    def delete_cache_file(self, file_name: str) -> None:
        """Ask to delete a cache file; the server says yes and keeps it, as it may be needed to rerun jobs.

        :param file_name: its name in the cache.
        """

    @endpoint("POST", "file_server/register_cache_file", idempotent=True, production=True)
    def register_cache_file(self, user_name: str, file_name: str, file_size: int, checksum: str) -> None:
        """Record a cache file in the database, as the server itself does after each upload.

        :param user_name: owner of the file.
        :param file_name: its name in the cache.
        :param file_size: bytes.
        :param checksum: the CRC32 in the gzip footer, in decimal digits.
        :raises Refused: the file is recorded already.
        """

    @endpoint("POST", "file_server/upload_jedi_log", idempotent=True, production=True, upload="file")
    def upload_jedi_log(self, file: Path) -> str:
        """Upload a log of JEDI and return its URL; an older log of this name is replaced.

        :param file: at most 100 MB.
        """

    # A repeat would append twice.
    @endpoint("POST", "file_server/update_jedi_log", idempotent=False, production=True, upload="file")
    def update_jedi_log(self, file: Path) -> None:
        """Append to a cache file; panda-server 1.0.4 always fails here.

        :param file: what to append, zlib-compressed, under the name of the log.
        :raises Refused: the server cannot write the log.
        """

    @endpoint("GET", "file_server/download_jedi_log", idempotent=True, enveloped=False)
    def download_jedi_log(self, log_name: str, offset: int = 0) -> str:
        """Read a text file from the top level of the cache.

        :param log_name: its name in the cache.
        :param offset: bytes to skip.
        :return: a blank, then the text; only the blank if the file is missing or no text.
        """

    @endpoint("POST", "file_server/upload_hpo_checkpoint", idempotent=True, upload="file")
    def upload_hpo_checkpoint(self, file: Path) -> str:
        """Upload a checkpoint of a hyperparameter optimisation and return its path on the server.

        :param file: named ``<task ID>_<sub ID>``, at most 500 MB; an older checkpoint is replaced.
        :raises InvalidArgument: the name is no such pair.
        :raises Refused: the file is too large.
        """

    @endpoint("POST", "file_server/delete_hpo_checkpoint", idempotent=True)
    def delete_hpo_checkpoint(self, task_id: str, sub_id: str) -> None:
        """Delete a checkpoint of a hyperparameter optimisation.

        :param task_id: JediTaskID, as text.
        :param sub_id: the second half of the checkpoint's name.
        :raises Refused: there is no such checkpoint.
        """

    # The methods below queue one more request each time they are called.
    @endpoint("POST", "file_server/upload_file_recovery_request", idempotent=False, owner=True)
    def upload_file_recovery_request(
        self,
        task_id: int | None = None,
        dry_run: bool | None = None,
        dataset: str | None = None,
        files: list[str] | None = None,
        no_child_retry: bool = True,
        resurrect_datasets: bool = False,
        force: bool = False,
        reproduce_parent: bool = False,
        reproduce_upto_nth_gen: int = 0,
    ) -> dict[str, str]:
        """Ask to recover lost files of a task or dataset.

        :param task_id: JediTaskID; this or ``dataset`` is needed. Only for a task is the owner checked.
        :param dry_run: only say what would be done.
        :param dataset: where to recover files.
        :param files: their names; all lost ones if not given.
        :param no_child_retry: leave child tasks alone.
        :param resurrect_datasets: bring deleted datasets back.
        :param force: even if no file is lost.
        :param reproduce_parent: run the parent task again if its output, the input here, was deleted.
        :param reproduce_upto_nth_gen: how many generations of parents to run again; more than 0 implies
            ``reproduce_parent``.
        :return: ``logFileURL``, where the outcome will be written.
        :raises PermissionDenied: another user's task.
        :raises InvalidArgument: neither task nor dataset was given.
        """

    @endpoint("POST", "file_server/upload_workflow_request", idempotent=False)
    def upload_workflow_request(self, data: str, dry_run: bool = False, sync: bool = False) -> Json:
        """Submit a CWL, Snakemake or yadage workflow.

        :param data: the request, a JSON object as text.
        :param dry_run: check it now and submit nothing.
        :param sync: process it now, not in a few minutes.
        :return: nothing, or with ``dry_run`` or ``sync`` what the processing returned.
        :raises Refused: ``data`` is not JSON.
        """

    @endpoint("POST", "file_server/upload_event_picking_request", idempotent=False)
    def upload_event_picking_request(
        self,
        run_event_list: str = "",
        data_type: str = "",
        stream_name: str = "",
        dataset_name: str = "",
        ami_tag: str = "",
        user_dataset_name: str = "",
        locked_by: str = "",
        parameters: str = "",
        input_file_list: str = "",
        n_sites: str = "",
        user_task_name: str = "",
        ei_api: str = "",
        include_guids: bool = False,
    ) -> None:
        """Ask to copy chosen events into a dataset.

        :param run_event_list: a run and an event number, and a GUID with ``include_guids``, on each line; lines
            of another shape are skipped. At most 10 MB.
        :param data_type: such as ``AOD``.
        :param stream_name: such as ``physics_Main``.
        :param dataset_name: where to look for the events.
        :param ami_tag: processing version of the input.
        :param user_dataset_name: the dataset to make.
        :param locked_by: who makes it.
        :param parameters: those of the job that uses it.
        :param input_file_list: files to look into.
        :param n_sites: number of sites.
        :param user_task_name: task that uses the dataset.
        :param ei_api: version of the event index.
        :param include_guids: the lines carry GUIDs.
        """
