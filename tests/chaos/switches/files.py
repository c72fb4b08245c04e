"""Guards of model data: how a blob becomes durable, which files are read, how far a header is believed.

Its length is an inventory's: a guard, what it is against, how it goes, and its test.
"""

from __future__ import annotations

from typing import Final

from tests.chaos.switches.source_edits import Edit
from tests.chaos.switches.switch import Switch

_BLOBS: Final = "fedqueue/blobs.py"
_STORE: Final = "connectors/storage/file_connector.py"
_GARBAGE: Final = "connectors/storage/garbage.py"
_PLACES: Final = "connectors/storage/places.py"
_LAYOUT: Final = "connectors/storage/safetensors_layout.py"
_NPZ: Final = "connectors/storage/npz_files.py"
_NPY: Final = "connectors/storage/npy_header.py"
_MARK: Final = "connectors/storage/mark.py"

_OF_STORE: Final = "tests/unit/storage/test_file_store.py"
_OF_BLOBS: Final = "tests/unit/storage/test_blobs.py"
_OF_HEADERS: Final = "tests/unit/storage/test_safetensors_files.py"
_HOSTILE: Final = "tests/unit/storage/test_hostile_files.py"
_OF_NPZ: Final = "tests/unit/storage/test_npz_files.py"

SWITCHES: Final = (
    # --- writing ----------------------------------------------------------------------------------
    Switch(
        "blob.before_its_row",
        "a row names a blob that is not in the store",
        (
            Edit(
                "connectors/storage/json_files.py",
                "            path, digest = keep_blob(self._root, self._file)\n"
                "            return BlobRef(path.as_uri(), digest, path.stat().st_size)",
                "            return BlobRef(Path(self._file.name).as_uri(), '0' * 64, 1)",
                "JsonWriter.commit",
            ),
        ),
        ("tests/unit/domain/test_rounds.py::test_fmas_published_case",),
        raises=("StoreUnavailable",),
    ),
    Switch(
        "blob.synced",
        "a blob whose row was committed is empty after a power cut",
        (Edit(_BLOBS, "    os.fsync(file.fileno())\n", "", "keep_blob"),),
        (f"{_OF_BLOBS}::test_a_blob_is_on_disk_before_it_has_its_name",),
    ),
    Switch(
        "blob.flushed",
        "the last bytes of a blob are in nobody's hands but the process's",
        (Edit(_BLOBS, "    file.flush()\n", "", "keep_blob"),),
        (f"{_OF_BLOBS}::test_a_blob_is_on_disk_before_it_has_its_name",),
    ),
    Switch(
        "blob.folders_synced",
        "a blob is lost with its folder's name in a power cut",
        (
            Edit(
                _BLOBS,
                "    for folder in (target.parent, target.parent.parent, root):\n        sync_folder(folder)\n",
                "",
                "keep_blob",
            ),
        ),
        (f"{_OF_STORE}::test_new_folders_are_durable_with_the_blob",),
    ),
    Switch(
        "blob.named_when_complete",
        "a reader finds half a blob under its digest",
        (Edit(_BLOBS, "os.link(staged, target)", "target.touch(exist_ok=False)", "keep_blob"),),
        (f"{_OF_BLOBS}::test_bytes_that_are_there_stay_the_file_they_were",),
        raises=("BlobMissing", "ModelDataError"),
    ),
    Switch(
        "blob.never_overwritten",
        "whoever stores the same bytes again takes the file away under a reader",
        (Edit(_BLOBS, "os.link(staged, target)", "os.replace(staged, target)", "keep_blob"),),
        (f"{_OF_BLOBS}::test_bytes_that_are_there_stay_the_file_they_were",),
        raises=("FileNotFoundError",),
    ),
    Switch(
        "blob.left_behind",
        "what was written for nothing fills the disk",
        (Edit(_BLOBS, "        Path(file.name).unlink(missing_ok=True)\n", "        pass\n", "new_blob"),),
        (f"{_OF_STORE}::test_a_wrong_digest_is_corrupt_and_leaves_nothing",),
    ),
    Switch(
        "garbage.clock_set_anew",
        "a blob that was just stored again is collected before its row is written",
        (Edit(_BLOBS, "                os.utime(target)\n", "                target.stat()\n", "keep_blob"),),
        (f"{_OF_STORE}::test_a_blob_stored_anew_while_rows_are_asked_is_left",),
    ),
    Switch(
        "garbage.collected_meanwhile",
        "a blob collected between two calls is taken for stored",
        (Edit(_BLOBS, "continue  # collected", "pass  # collected", "keep_blob"),),
        (f"{_OF_STORE}::test_a_blob_collected_while_it_is_stored_anew_is_stored_again",),
        raises=("FileNotFoundError",),
    ),
    Switch(
        "garbage.age",
        "the blob of a round under way, which no row names yet, is collected",
        (Edit(_GARBAGE, " and _modified(path) < before:", ":", "_old_blobs"),),
        (f"{_OF_STORE}::test_old_blobs_that_nobody_names_are_deleted",),
    ),
    Switch(
        "garbage.named",
        "collection takes what rows name",
        (Edit(_GARBAGE, "sorted(set(batch) - is_named(batch))", "sorted(set(batch))", "collect_blobs"),),
        (f"{_OF_STORE}::test_old_blobs_that_nobody_names_are_deleted",),
    ),
    Switch(
        "garbage.looked_at_again",
        "a blob that was stored anew while the rows were asked is collected",
        (Edit(_GARBAGE, "renewed = _modified(aside) >= before", "renewed = False", "_delete_unless_renewed"),),
        (f"{_OF_STORE}::test_a_blob_stored_anew_while_rows_are_asked_is_left",),
    ),
    Switch(
        "garbage.put_back",
        "what a killed collector had taken out of the way is gone",
        (Edit(_GARBAGE, "            _put_back(aside, blob_path(root, digest))\n", "", "collect_blobs"),),
        (f"{_OF_STORE}::test_what_a_killed_collector_took_out_of_the_way_is_put_back",),
    ),
    Switch(
        "garbage.own_files_alone",
        "collection deletes what the store did not make",
        (Edit(_GARBAGE, "if is_digest(path.name) and path == blob_path(root, path.name) and ", "if ", "_old_blobs"),),
        (f"{_OF_BLOBS}::test_collection_leaves_what_is_no_blob_though_it_lies_where_one_would",),
    ),
    Switch(
        "garbage.young_staged_files",
        "a file that is being written is collected",
        (Edit(_GARBAGE, "        if _modified(path) < before:\n", "        if True:\n", "clear_staging"),),
        (f"{_OF_STORE}::test_old_staged_files_go_and_young_ones_stay",),
    ),
    # --- reading what others name -----------------------------------------------------------------
    Switch(
        "digest.checked_when_taken_in",
        "other bytes than were sent are counted",
        (Edit(_STORE, "    if wanted is not None and found != wanted:\n", "    if False:\n", "_check_digest"),),
        (
            f"{_OF_STORE}::test_a_wrong_digest_is_corrupt_and_leaves_nothing",
            f"{_OF_STORE}::test_a_blob_that_has_rotted_in_the_store_is_corrupt",
        ),
    ),
    Switch(
        "reference.confined",
        "a client has the hub read any file of its machine",
        (
            Edit(
                _PLACES,
                "if not any(path.is_relative_to(base) for base in (root, root.resolve())):",
                "if False:",
                "locate",
            ),
            Edit(_PLACES, "        if real.is_relative_to(root.resolve()):\n", "        if True:\n", "locate"),
            Edit(_STORE, "if root == self._root and not in_store and not self._is_outside(path):", "if False:"),
            Edit(
                _PLACES,
                "    parts = path.relative_to(root).parts\n",
                "    root, parts = Path('/'), path.parts[1:]\n",
                "open_inside",
            ),
        ),
        (f"{_OF_STORE}::test_what_is_not_under_a_configured_root_is_refused",),
    ),
    Switch(
        "reference.no_way_up",
        "a reference climbs out of its root",
        (Edit(_PLACES, 'if ".." in path.parts or ', "if ", "locate"),),
        (f"{_OF_STORE}::test_no_way_leads_up",),
    ),
    Switch(
        "reference.no_link_out",
        "a link in an outside root leads the hub to any file",
        (Edit(_PLACES, "        if real.is_relative_to(root.resolve()):\n", "        if True:\n", "locate"),),
        (f"{_OF_STORE}::test_a_link_that_leads_out_is_refused",),
        raises=("ValueError",),
    ),
    Switch(
        "reference.no_link_later",
        "a link that is put in place after the check leads the hub to any file",
        (Edit(_PLACES, " | os.O_NOFOLLOW", "", "_open"),),
        (f"{_OF_STORE}::test_a_link_put_in_place_after_the_check_is_refused",),
    ),
    Switch(
        "reference.regular_files_alone",
        "a device or a pipe is read for ever",
        (Edit(_PLACES, "if not stat.S_ISREG(os.fstat(file).st_mode):", "if False:", "open_inside"),),
        (f"{_OF_STORE}::test_a_folder_is_refused",),
        raises=("StoreUnavailable", "ModelDataError"),
    ),
    Switch(
        "reference.pipe_without_waiting",
        "a pipe that nobody writes to holds a worker for ever",
        (
            Edit(
                _PLACES,
                "_open(parts[-1], os.O_NONBLOCK, folder, path)",
                "_open(parts[-1], 0, folder, path)",
                "open_inside",
            ),
        ),
        (f"{_OF_STORE}::test_a_pipe_is_refused_without_waiting_for_its_writer",),
        raises=("Failed",),
        wide=True,
    ),
    Switch(
        "store.mark",
        "a store that is not mounted condemns the updates whose data it holds",
        (Edit(_MARK, "            if named and not any(", "            if False and not any(", "StoreMark.check"),),
        ("tests/unit/storage/test_store_mark.py::test_everything_finds_a_store_that_is_away_unavailable",),
        raises=("BlobMissing",),
    ),
    # --- how far a file is believed ---------------------------------------------------------------
    Switch(
        "limit.bytes",
        "an update as large as the disk fills it",
        (
            Edit(
                _STORE,
                "        if size > self._limits.max_bytes:\n",
                "        if False:\n",
                "FileModelDataConnector._check_size",
            ),
        ),
        (f"{_OF_STORE}::test_inline_bytes_over_the_limit_are_too_large",),
    ),
    Switch(
        "limit.header_within_the_file",
        "a header that claims more than the file has is read past its end",
        (Edit(_LAYOUT, "    if LENGTH_BYTES + length > file_bytes:\n", "    if False:\n", "header_length"),),
        (f"{_HOSTILE}::test_a_lying_safetensors_header_is_refused",),
    ),
    Switch(
        "limit.header",
        "a header of gigabytes is parsed",
        (Edit(_LAYOUT, "    if length > limits.max_header_bytes:\n", "    if False:\n", "header_length"),),
        (f"{_HOSTILE}::test_a_header_of_200_megabytes_of_zeros_is_not_even_read",),
    ),
    Switch(
        "limit.marks_in_a_header",
        "a header of 100 MiB becomes gigabytes of objects",
        (
            Edit(
                _LAYOUT,
                "    if marks > _MARKS_A_TENSOR * limits.max_tensors + _MARKS_OF_METADATA:\n",
                "    if False:\n",
                "_load",
            ),
        ),
        (f"{_HOSTILE}::test_a_header_that_would_be_gigabytes_of_objects_is_counted_first",),
        raises=("MemoryError",),
    ),
    Switch(
        "limit.tensors",
        "a million tensors of one element take all memory",
        (Edit(_LAYOUT, "    if len(entries) > limits.max_tensors:\n", "    if False:\n", "parse_header"),),
        (f"{_OF_HEADERS}::test_whatever_is_over_a_limit_is_too_large",),
    ),
    Switch(
        "header.spans",
        "a tensor is read from bytes that are another's, or outside the file",
        (Edit(_LAYOUT, "        if begin != end_before:\n", "        if False:\n", "parse_header"),),
        (f"{_OF_HEADERS}::test_a_lying_header_is_refused_with_what_is_wrong",),
    ),
    Switch(
        "header.shape_times_size",
        "a shape that claims terabytes is believed",
        (Edit(_LAYOUT, "    if needed != offsets[1] - offsets[0]:\n", "    if False:\n", "_parse_entry"),),
        (f"{_OF_HEADERS}::test_a_huge_shape_is_refused_before_anything_is_allocated",),
        raises=("ValueError",),
    ),
    Switch(
        "header.whole_file",
        "a file that was cut short, or has something behind it, is believed",
        (Edit(_LAYOUT, "    if data_start + end_before != file_bytes:\n", "    if False:\n", "parse_header"),),
        (f"{_OF_HEADERS}::test_a_lying_header_is_refused_with_what_is_wrong",),
    ),
    Switch(
        "header.names_once",
        "of two tensors of one name the first is dropped silently",
        (Edit(_LAYOUT, "    if len(entries) < len(pairs):\n", "    if False:\n", "_refuse_duplicates"),),
        (f"{_OF_HEADERS}::test_a_name_given_twice_is_refused_not_overwritten",),
    ),
    Switch(
        "archive.ratio",
        "256 MiB of zeros come in a file of 250 KiB",
        (Edit(_NPZ, "    if total > most:\n", "    if False:\n"),),
        (f"{_OF_NPZ}::test_an_archive_over_a_limit_is_too_large",),
    ),
    Switch(
        "archive.unpacked_bytes",
        "an archive unpacks to more than the limit",
        (Edit(_NPZ, "    if total > limits.max_bytes:\n", "    if False:\n"),),
        (f"{_OF_NPZ}::test_an_archive_over_a_limit_is_too_large",),
    ),
    Switch(
        "archive.plain_names",
        "a member's name leads somewhere",
        (
            Edit(
                _NPZ,
                "    return not any(character in name",
                "    return True or not any(character in name",
                "_is_plain",
            ),
        ),
        (f"{_HOSTILE}::test_a_hostile_archive_is_refused",),
    ),
    Switch(
        "npy.header_bytes",
        "a header of gigabytes is read",
        (Edit(_NPY, "    if length > _MAX_HEADER:\n", "    if False:\n", "read_npy_header"),),
        (f"{_HOSTILE}::test_a_lying_npy_header_is_refused",),
    ),
    Switch(
        "npy.shape_within_its_bytes",
        "a lying header asks for terabytes",
        (
            Edit(
                _NPY,
                "    if header.data_start + header.data_bytes != total_bytes:\n",
                "    if False:\n",
                "read_npy_header",
            ),
        ),
        (f"{_HOSTILE}::test_a_lying_npy_header_is_refused",),
    ),
    Switch(
        "npy.known_dtypes",
        "pickled objects are read, or what has no mean",
        (
            Edit(
                _NPY,
                "    if not isinstance(descr, str) or descr not in _DTYPES:\n",
                "    if not isinstance(descr, str):\n",
                "_check_dtype",
            ),
            Edit(_NPY, "    return _DTYPES[descr]\n", "    return _DTYPES.get(descr, 'F64')\n", "_check_dtype"),
        ),
        (f"{_OF_NPZ}::test_a_dtype_that_has_no_mean_or_no_name_is_refused_by_name",),
        raises=("ModelDataError",),
    ),
    Switch(
        "json.bytes",
        "JSON as large as memory is parsed",
        (
            Edit(
                "connectors/storage/json_files.py",
                "            if size > limits.max_json_bytes:\n",
                "            if False:\n",
            ),
            Edit("connectors/storage/fma_json.py", "    if len(text) > limits.max_json_bytes:\n", "    if False:\n"),
        ),
        ("tests/unit/storage/test_fma_json.py::test_json_over_a_limit_is_too_large",),
    ),
)
