"""Declares all limits of what a job, or its host, may have of this machine: one row each.

A limit's number stands where it is kept to; here is what it is of, what happens when it is reached, and which test
shows that. docs/limits.md has the table, and a test finds each limit that is not in it. Nothing imports this to run.
"""

from __future__ import annotations

from remoteio.wire.link import Window
from shim.submit.limit import BYTES, Limit, in_bytes

_EXPORT, _UNIT = "remoteio/submit/export", "tests/unit/test"
_UNTAKEN, _ROOM = f"{_UNIT}_untaken.py", f"{_UNIT}_room.py"
_MISBEHAVES = "the host misbehaves: what it runs ends"
_UNKEPT = "it is not kept, which the log says"
_NO_IMAGE = "the image is refused, and the job goes on"

FILES = (
    Limit(
        "what it adds to the files here", "what `--disk` says", "", "EDQUOT", f"{_EXPORT}/room.py",
        f"{_ROOM}::test_each_way_to_add_is_refused",
    ),
    Limit(
        "space that is left free where nothing is said, at most", "remoteio.submit.export.room:KEPT_FREE", BYTES,
        "ENOSPC", f"{_EXPORT}/room.py", f"{_ROOM}::test_the_last_free_space_is_left",
    ),
    Limit(
        "names that are told ahead as a command starts", "remoteio.submit.export.first_names:MOST_NAMES", "",
        "further ones are asked for", f"{_EXPORT}/first_names.py",
        f"{_UNIT}_first_names.py::test_no_more_is_learned_than_so_many_names_of_the_first_moments",
    ),
    Limit(
        "of these, from which on no guessed ones are learned", "remoteio.submit.export.first_names:MOST_GUESSED", "",
        "they are guessed again", f"{_EXPORT}/first_names.py",
        f"{_UNIT}_first_names.py::test_what_is_guessed_is_learned_to_a_bound_so_that_what_is_asked_for_has_room",
    ),
    Limit(
        "what is sent of files as a command starts, before it asks", "remoteio.submit.export.pushing:MOST_BYTES", BYTES,
        "the rest is asked for", f"{_EXPORT}/pushing.py",
        f"{_UNIT}_pushed.py::test_of_one_start_no_more_is_sent_than_so_much",
    ),
    Limit(
        "programs of one job of which is guessed what they use", "shim.submit.told_ahead:MOST_PROGRAMS", "",
        "what further ones use is asked for", "shim/submit/told_ahead.py",
        f"{_UNIT}_guessed.py::test_no_more_programs_are_guessed_than_so_many",
    ),
    Limit(
        "of these, the libraries of one", "shim.submit.guessed.libraries:_MOST", "", "further ones are asked for",
        "shim/submit/guessed/libraries.py", f"{_UNIT}_guessed.py::test_no_more_libraries_are_followed_than_so_many",
    ),
    Limit(
        "the modules of a python", "shim.submit.guessed.modules:MOST_MODULES", "", "further ones are asked for",
        "shim/submit/guessed/modules.py", f"{_UNIT}_guessed.py::test_no_more_modules_are_followed_than_so_many",
    ),
    Limit(
        "names that may be such modules", "shim.submit.guessed.modules:_MOST_NAMES", "", "further ones are asked for",
        "shim/submit/guessed/modules.py", f"{_UNIT}_guessed.py::test_no_more_modules_are_followed_than_so_many",
    ),
    Limit(
        "what is read of the source of one", "shim.submit.guessed.modules:MOST_TEXT", BYTES,
        "what it imports further on is asked for", "shim/submit/guessed/modules.py",
        f"{_UNIT}_guessed.py::test_no_more_modules_are_followed_than_so_many",
    ),
    Limit(
        "the headers of a compiler's sources", "shim.submit.guessed.compilers:MOST_HEADERS", "",
        "further ones are asked for", "shim/submit/guessed/compilers.py",
        f"{_UNIT}_guessed.py::test_no_more_headers_are_followed_than_so_many",
    ),
    Limit(
        "words of a command line that may name files", "shim.submit.guessed.words:MOST_WORDS", "",
        "what further ones name is asked for", "shim/submit/guessed/words.py",
        f"{_UNIT}_guessed.py::test_no_more_words_are_looked_at_than_so_many",
    ),
    Limit(
        "of these files, the ranges of one", "remoteio.submit.export.first_names:MOST_RANGES", "",
        "the last are not learned", f"{_EXPORT}/first_names.py",
        f"{_UNIT}_first_names.py::test_ranges_that_are_near_each_other_are_one",
    ),
    Limit(
        "commands of which such names are kept", "shim.submit.learned_starts:MOST_STARTS", "",
        "those not learned of late are forgotten", "shim/submit/learned_starts.py",
        f"{_UNIT}_first_names.py::test_no_more_starts_are_kept_than_so_many",
    ),
    Limit(
        "of these, the names, directories and trees of one", "shim.submit.learned_starts:MOST_USES", "",
        "the last are not kept", "shim/submit/learned_starts.py",
        f"{_UNIT}_first_names.py::test_all_that_is_learned_of_a_command_is_read_again",
    ),
    Limit(
        "of these, the names of one", "shim.submit.learned_starts:MOST_BYTES", BYTES,
        "they are not kept", "shim/submit/learned_starts.py",
        f"{_UNIT}_first_names.py::test_no_more_starts_are_kept_than_so_many",
    ),
    Limit(
        "versions of files of which home knows that one host has kept them", "shim.submit.kept_on_host:MOST_MARKS", "",
        "those not sent of late are sent again", "shim/submit/kept_on_host.py",
        f"{_UNIT}_kept_there.py::test_no_more_is_known_than_so_much",
    ),
    Limit(
        "hosts of which it knows that", "shim.submit.kept_on_host:MOST_HOSTS", "", "as above",
        "shim/submit/kept_on_host.py", f"{_UNIT}_kept_there.py::test_no_more_is_known_than_so_much",
    ),
    Limit(
        "seconds for which runs on a far host are served in one session", "shim.submit.resident:LONGEST", "",
        "the next begins another", "shim/submit/resident.py", f"{_UNIT}_resident.py::test_a_session_is_not_for_ever",
    ),
    Limit(
        "memory of who serves them", "shim.submit.resident:MOST_MEMORY", BYTES, "as above", "shim/submit/resident.py",
        f"{_UNIT}_resident.py::test_a_session_is_not_for_ever",
    ),
    Limit(
        "directories that are listed ahead as a command starts", "remoteio.submit.export.learned_walks:MOST_WALKED", "",
        "further ones are asked for", f"{_EXPORT}/learned_walks.py",
        f"{_UNIT}_learned_walks.py::test_no_more_is_listed_than_so_many_directories",
    ),
    Limit(
        "names in them, half of what a host keeps", "remoteio.submit.export.pushed_walks:MOST_TOLD", "",
        "further ones are asked for", f"{_EXPORT}/pushed_walks.py",
        f"{_UNIT}_learned_walks.py::test_no_more_names_are_told_than_leave_room_for_what_the_host_needs",
    ),
    Limit(
        "trees that are sent as a command begins to walk them", "remoteio.submit.export.begun_walks:MOST_BEGUN", "",
        "further ones are asked for", f"{_EXPORT}/begun_walks.py",
        f"{_UNIT}_learned_walks.py::test_no_more_trees_are_begun_with_than_so_many",
    ),
    Limit(
        "of these, those that were passed by", "remoteio.submit.export.learned_walks:MOST_PASSED_BY", "",
        "the walk is not learned", f"{_EXPORT}/learned_walks.py",
        f"{_UNIT}_learned_walks.py::test_who_passes_many_by_walks_no_tree",
    ),
    Limit(
        "directories that one run opens alone, and are listed at its next start",
        "remoteio.submit.export.learned_walks:MOST_ALONE", "", "further ones are asked for",
        f"{_EXPORT}/learned_walks.py",
        f"{_UNIT}_learned_walks.py::test_of_directories_that_are_opened_alone_no_more_are_learned_than_so_many",
    ),
    Limit(
        "files whose additions are given back", "remoteio.submit.export.added:MOST_COUNTED", "",
        "those of further ones count for good", f"{_EXPORT}/added.py",
        f"{_ROOM}::test_no_more_files_are_told_apart_than_memory_is_for",
    ),
    Limit(
        "of these, on record for `rexec restart`", "remoteio.submit.export.added:MOST_ROWS", "",
        "the largest are", f"{_EXPORT}/added.py", f"{_ROOM}::test_no_more_files_are_told_apart_than_memory_is_for",
    ),
    Limit(
        "an extended attribute", "64 KiB, the kernel's own", "", "E2BIG; all of them count for `--disk`",
        f"{_EXPORT}/attributes.py", f"{_ROOM}::test_each_way_to_add_is_refused",
    ),
    Limit(
        "files and directories open, and owners of locks", "`ulimit -Hn` here, less 128", "", "EMFILE",
        f"{_EXPORT}/inodes.py", f"{_UNTAKEN}::test_owners_of_locks_count_with_the_open_files",
    ),
    Limit(
        "files that its kernel knows, those with inotify watches among them",
        "remoteio.submit.export.inodes:MOST_NODES", "", "ENFILE for others, until it forgets some",
        f"{_EXPORT}/inodes.py", f"{_UNIT}_limits.py::test_files_that_a_kernel_knows",
    ),
    Limit(
        "those that it may know for as long as it likes", "remoteio.submit.export.pruning:MOST_KEPT", "",
        "Linux 6.18 or newer lets the oldest go", f"{_EXPORT}/pruning.py", f"{_UNIT}_pruning.py::test_the_oldest_go",
    ),
    Limit(
        "names of one file that are remembered", "remoteio.submit.export.nodes:MOST_LINKS", "",
        "those seen first are forgotten", f"{_EXPORT}/inodes.py", f"{_UNIT}_limits.py::test_names_of_one_file",
    ),
    Limit(
        "directories kept open to find names in", "remoteio.submit.export.inodes:MOST_DIRECTORIES", "",
        "those not used of late are closed", f"{_EXPORT}/descriptors.py",
        f"{_UNIT}_export_bounds.py::test_as_many_directories_are_used_as_there_are_whatever_may_be_open",
    ),
    Limit(
        "entries of open directories kept in memory", "remoteio.submit.export.listings:MOST_ENTRIES", "",
        "they are read again, from where they were", f"{_EXPORT}/least_used.py",
        f"{_UNTAKEN}::test_a_listing_that_was_given_up_is_read_on_from_where_it_was",
    ),
    Limit(
        "requests that wait for a change before them", "remoteio.wire.behind:MOST_HELD", "", _MISBEHAVES,
        f"{_EXPORT}/ordered.py", f"{_UNIT}_ordered.py::test_no_more_is_kept_than_a_kernel_asks_for",
    ),
    Limit(
        "of these, the bytes", "remoteio.wire.behind:MOST_HELD_BYTES", BYTES, _MISBEHAVES,
        f"{_EXPORT}/ordered.py", f"{_UNIT}_ordered.py::test_no_more_is_kept_than_a_kernel_asks_for",
    ),
    Limit(
        "files and directories of which the host has told before they were made",
        "remoteio.submit.export.numbers:MOST_TOLD", "", "the job waits until others are made",
        f"{_EXPORT}/more_made.py", f"{_UNIT}_making.py::test_no_more_is_told_of_than_may_be",
    ),
    Limit(
        "files and directories that are watched for leases, or an eighth of `fs.inotify.max_user_watches`",
        "remoteio.submit.export.leases:MOST_WATCHES", "", "those watched first are asked for as others are",
        f"{_EXPORT}/leases.py", f"{_UNIT}_leases.py::test_watches_are_bounded_and_those_set_first_go",
    ),
    Limit(
        "files that the host has opened by itself, told of and not opened here yet",
        "remoteio.submit.export.opened_on_host:MOST_EXPECTED", "", _MISBEHAVES, f"{_EXPORT}/opened_on_host.py",
        f"{_UNIT}_opened_on_host.py::test_what_is_told_of_is_bounded_and_has_numbers_of_the_host_s_own",
    ),
    Limit(
        "pages that locks may guard, kept in memory", "remoteio.submit.export.locks:MOST_TWINS", BYTES,
        "those of files not open, and not used of late, are read again", f"{_EXPORT}/least_used.py",
        f"{_UNTAKEN}::test_pages_that_locks_may_guard_are_kept_of_the_files_in_use",
    ),
    Limit(
        "of these, from the beginning of one file", "remoteio.submit.export.page_twins:MOST", BYTES,
        "what is beyond is written whole", f"{_EXPORT}/page_twins.py",
        "tests/property/test_page_twins.py::test_what_has_no_twin_is_written_whole",
    ),
    Limit(
        "directories remembered as the job's own", "remoteio.submit.export.confine:MOST_MADE", "",
        "further ones are as if they had been there", f"{_EXPORT}/allowed.py",
        f"{_UNIT}_limits.py::test_directories_of_the_job_s_own",
    ),
    Limit(
        "refusals told apart", "remoteio.submit.export.refusals:MOST", "", "further ones are refused all the same",
        f"{_EXPORT}/refusals.py", f"{_UNIT}_access.py::test_a_host_that_asks_for_ever_fills_no_memory",
    ),
    Limit(
        "bytes that one request copies", "remoteio.submit.export.room_asked:MOST_COPIED", BYTES,
        "the job's kernel asks again", f"{_EXPORT}/space.py", f"{_ROOM}::test_each_way_to_add_is_refused",
    ),
)  # fmt: skip

REQUESTS = (
    Limit(
        "a read or write", "remoteio.wire.fuse_abi:MAX_WRITE", BYTES, "EINVAL", f"{_EXPORT}/files.py",
        "tests/property/test_fuse_abi.py::test_the_export_answers_or_ignores_and_never_breaks",
    ),
    Limit(
        "a request", "remoteio.wire.fuse_abi:MAX_REQUEST", BYTES, _MISBEHAVES, "shim/submit/host_session.py",
        "tests/fault/test_hostile.py::test_a_link_that_breaks_the_rules_ends_the_run_by_a_sentence",
    ),
    Limit(
        "requests let in together", "shim.submit.limited_requests:AT_ONCE", "", "others wait",
        "shim/submit/limited_requests.py",
        f"{_UNTAKEN}::test_requests_are_let_in_as_answers_are_taken_and_none_is_lost",
    ),
    Limit(
        "answers that it has not taken, and large requests under way", "shim.submit.limited_requests:MOST_UNTAKEN",
        BYTES, "its requests wait", "shim/submit/limited_requests.py",
        f"{_UNTAKEN}::test_requests_are_let_in_as_answers_are_taken_and_none_is_lost",
    ),
    Limit(
        "what was sent and not acknowledged, each way of a link", "remoteio.wire.session_sender:MOST", BYTES,
        "what is large waits", "remoteio/wire/session_sender.py",
        f"{_UNIT}_session_link.py::test_who_sends_waits_when_too_much_is_kept_and_an_order_does_not",
    ),
    Limit(
        "requests that wait for it", "shim.submit.limited_requests:MOST_ASIDE", BYTES, _MISBEHAVES,
        "shim/submit/limited_requests.py", f"{_UNTAKEN}::test_who_asks_for_ever_and_takes_nothing_is_no_kernel",
    ),
    Limit(
        "threads that serve it", "remoteio.thread_pool:MOST_WORKERS", "", "requests wait", "remoteio/thread_pool.py",
        f"{_UNTAKEN}::test_those_that_wait_keep_none_from_being_done",
    ),
    Limit(
        "changes asked for while the job stands still, and kept", "remoteio.submit.export.fence:MOST", "", _MISBEHAVES,
        f"{_EXPORT}/fence.py", f"{_UNIT}_limits.py::test_changes_of_a_job_that_stands_still",
    ),
    Limit(
        "of these, in all", "remoteio.submit.export.fence:MOST_BYTES", BYTES, _MISBEHAVES, f"{_EXPORT}/fence.py",
        f"{_UNIT}_limits.py::test_changes_of_a_job_that_stands_still",
    ),
    Limit(
        "requests that wait for a lock", "remoteio.submit.leader_followers:MOST_WAITING", "", "ENOLCK",
        f"{_EXPORT}/locks.py", f"{_UNTAKEN}::test_who_waits_is_counted_and_has_a_number_of_its_own",
    ),
)  # fmt: skip

LINK = (
    Limit(
        "a frame", "remoteio.wire.frames:MAX_PAYLOAD", BYTES, _MISBEHAVES, "remoteio/wire/frames.py",
        "tests/property/test_frames.py::test_a_head_is_refused_before_its_payload",
    ),
    Limit(
        "of a stream, under way", in_bytes(Window.SIZE), "", _MISBEHAVES, "remoteio/wire/link.py",
        f"{_UNTAKEN}::test_more_than_a_stream_may_send_is_not_kept",
    ),
    Limit(
        "of an image, under way", in_bytes(Window.IMAGE), "", _MISBEHAVES, "remoteio/wire/link.py",
        f"{_UNTAKEN}::test_more_than_a_stream_may_send_is_not_kept",
    ),
    Limit(
        "a piece of news", "shim.submit.host_frames:_MOST_NEWS", BYTES, _MISBEHAVES, "shim/submit/host_frames.py",
        f"{_UNIT}_limits.py::test_news",
    ),
    Limit(
        "what its job has cost", "shim.submit.spent:_MOST_BYTES", BYTES, _MISBEHAVES, "shim/submit/spent.py",
        f"{_UNIT}_cost.py::test_a_host_that_counts_nonsense_is_told",
    ),
    Limit(
        "the log of a job, to which news may add", "shim.submit.job.events:MOST_TOLD", BYTES,
        "only changes of the job's place are written any more", "shim/submit/job/events.py",
        "tests/functional/test_events.py::test_a_host_that_tells_without_end_fills_no_disk",
    ),
    Limit(
        "ranges of ids that it tells", "shim.submit.host_frames:_MOST_RANGES", "", _MISBEHAVES,
        "shim/submit/host_frames.py", f"{_UNIT}_host_shapes.py::test_a_hello_that_no_host_says",
    ),
    Limit(
        "text of its own that is shown", "remoteio.printable:MOST", "characters", "the rest is left out",
        "remoteio/printable.py", f"{_UNIT}_host_shapes.py::test_text_of_others_moves_no_cursor_and_forges_no_line",
    ),
    Limit(
        "what its login prints before rexec answers", "shim.submit.hosts.bootstrap:_NOISE_BYTES", BYTES,
        "it cannot be used", "shim/submit/hosts/bootstrap.py",
        f"{_UNIT}_bootstrap.py::test_endless_noise_is_an_end",
    ),
    Limit(
        "what waits for one `rexec attach` that reads slowly", "shim.submit.job.attached_client:MOST", BYTES,
        "it loses its connection, and the job nothing", "shim/submit/job/attached_client.py",
        f"{_UNIT}_limits.py::test_one_that_is_attached_and_reads_nothing",
    ),
)  # fmt: skip

IMAGES = (
    Limit(
        "an image", "checkpoint.submit.receiver:DEFAULT_LIMIT", BYTES, _NO_IMAGE, "checkpoint/submit/receiver.py",
        "tests/property/test_image_transfer.py::test_an_image_over_the_limit_is_refused",
    ),
    Limit(
        "what an image takes of the disk", "all but the last GiB, or 5 %", "", _NO_IMAGE,
        "shim/submit/job/image_intake.py", f"{_UNIT}_limits.py::test_an_image_leaves_the_last_free_space",
    ),
    Limit(
        "files of an image", "checkpoint.wire.image_wire:MAX_FILES", "", _NO_IMAGE, "checkpoint/submit/receiver.py",
        f"{_UNIT}_limits.py::test_an_image_of_too_much",
    ),
    Limit(
        "a message of an image", "checkpoint.wire.image_wire:MAX_MESSAGE", BYTES, _NO_IMAGE,
        "checkpoint/wire/image_wire.py", f"{_UNIT}_limits.py::test_an_image_of_too_much",
    ),
    Limit(
        "what is told of an image beside its files", "checkpoint.wire.image_wire:MAX_HEAD", BYTES, _NO_IMAGE,
        "checkpoint/submit/receiver.py", f"{_UNIT}_limits.py::test_an_image_of_too_much",
    ),
    Limit(
        "chunks that are offered and not answered", "checkpoint.wire.image_wire:MAX_BATCHES",
        "batches of 512", _NO_IMAGE,
        "checkpoint/submit/receiver.py", f"{_UNIT}_limits.py::test_an_image_of_too_much",
    ),
    Limit(
        "processes, descriptors, threads or mappings of an image", "shim.submit.job.image_head:_MOST", "", _NO_IMAGE,
        "shim/submit/job/image_head.py", f"{_UNIT}_limits.py::test_an_image_of_too_much",
    ),
    Limit(
        "a file that an image has mapped or open and that is kept (moving.md, Files)",
        "shim.submit.job.pins:MOST_FILE", BYTES, _UNKEPT, "shim/submit/job/pins.py",
        f"{_UNIT}_pins.py::test_no_more_is_kept_than_may_be",
    ),
    Limit(
        "all these files of one job's images", "shim.submit.job.pins:MOST_BYTES", BYTES,
        f"the largest of the newest image: {_UNKEPT}", "shim/submit/job/pins.py",
        f"{_UNIT}_pins.py::test_no_more_is_kept_than_may_be",
    ),
    Limit(
        "such files of one image", "shim.submit.job.pins:MOST_FILES", "", f"the largest: {_UNKEPT}",
        "shim/submit/job/pins.py", f"{_UNIT}_pins.py::test_no_more_is_kept_than_may_be",
    ),
)  # fmt: skip

_FORWARDS, _FORWARDER = "shim.wire.forwards", f"{_UNIT}_forwarder.py"
FORWARDS = (
    Limit("ports of one job", f"{_FORWARDS}:MOST_FORWARDS", "", "the job is refused", "shim/submit/forwarding.py",
          f"{_FORWARDER}::test_what_cannot_be_meant_together_is_told"),
    Limit("connections that one end has opened", f"{_FORWARDS}:MOST", "", "who connects waits",
          "shim/wire/forwarder.py", f"{_FORWARDER}::test_no_more_are_let_in_than_so_many"),
    Limit("of these, what the other end has here", f"{_FORWARDS}:TWICE", "", "further ones are reset",
          "shim/wire/forwards.py", f"{_FORWARDER}::test_one_too_many_is_refused"),
    Limit("what is under way of one connection, each way", f"{_FORWARDS}:WINDOW", BYTES, _MISBEHAVES,
          "shim/wire/forwards.py", f"{_FORWARDER}::test_what_breaks_the_rules_is_an_error_of_protocol"),
)  # fmt: skip

_KEPT = "remoteio/execute/kept_contents.py"
KEPT = (
    Limit(
        "contents of files, for all jobs of that login; or a tenth of what is free there, if that is less",
        "remoteio.execute.kept_contents:MOST", BYTES, "what was used longest ago goes", _KEPT,
        f"{_UNIT}_kept_contents.py::test_what_was_used_longest_ago_goes_beyond_the_limit",
    ),
    Limit(
        "of these, one file", "half of that", "", "it is not kept", _KEPT,
        f"{_UNIT}_kept_contents.py::test_what_is_too_large_is_not_kept",
    ),
    Limit(
        "versions of files", "remoteio.execute.kept_contents:MOST_FILES", "", "what was used longest ago goes", _KEPT,
        f"{_UNIT}_kept_contents.py::test_no_more_files_than_there_may_be",
    ),
    Limit(
        "what waits for the host's disk, in an agent's memory", "remoteio.execute.kept_contents:MOST_WAITING", BYTES,
        "what is read meanwhile is not kept", _KEPT, f"{_UNIT}_kept_contents.py::test_what_waits_is_bounded",
    ),
)  # fmt: skip

TABLES = {"files": FILES, "requests": REQUESTS, "link": LINK, "images": IMAGES, "forwards": FORWARDS, "kept": KEPT}
