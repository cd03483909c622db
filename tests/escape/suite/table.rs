//! Every escape: who gets out by it where nothing confines, how the outside learns of it, and what becomes
//! of it under strict confinement.

use crate::scene::{Input, Scene};

/// Whether the outside noticed, given what the attacker said.
pub(crate) type Oracle = fn(&mut Scene, &str) -> bool;

/// Who gets out where nothing confines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Free {
    /// Any user.
    Anyone,
    /// Root with its capabilities. Of others nothing is demanded.
    Root,
    /// Nobody: it is held off by more than a sandbox, for this reason.
    Nobody(&'static str),
}

/// What becomes of it under strict confinement.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Strict {
    /// One of these errnos; [`NOTHING`] among them allows calls that succeed and reach nothing.
    Denied(&'static [i32]),
    /// The process is killed by SIGSYS.
    Killed,
    /// It gets out. `docs/residual.md` has it.
    Residual,
    /// It gets out before this ABI of Landlock, from which on it is denied. `docs/residual.md` has it.
    ResidualBefore(u8, &'static [i32]),
    /// It gets out where root runs it, and is denied with one of these errnos to anybody else.
    /// `docs/residual.md` has it.
    ResidualOfRoot(&'static [i32]),
    /// It gets out where anybody but root runs it. `docs/residual.md` has it.
    ResidualOfOthers(&'static [i32]),
}

/// In place of an errno: the calls succeeded, and reached nothing.
pub(crate) const NOTHING: i32 = 0;

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) free: Free,
    pub(crate) strict: Strict,
    /// `None` where only the attacker can know.
    pub(crate) oracle: Option<Oracle>,
    pub(crate) input: Input,
    /// What the outside does when the attacker says that it is ready.
    pub(crate) meets: Option<fn(&mut Scene, &str)>,
    /// Whether the attacker is started by the standard library where nothing confines, and so inherits.
    pub(crate) inherits: bool,
}

impl Row {
    fn seen(self, oracle: Oracle) -> Self {
        Self { oracle: Some(oracle), ..self }
    }

    fn meets(self, meets: fn(&mut Scene, &str)) -> Self {
        Self { meets: Some(meets), ..self }
    }

    fn input(self, input: Input) -> Self {
        Self { input, ..self }
    }

    fn inherits(self) -> Self {
        Self { inherits: true, ..self }
    }

    fn root(self) -> Self {
        Self { free: Free::Root, ..self }
    }

    fn nobody(self, why: &'static str) -> Self {
        Self { free: Free::Nobody(why), ..self }
    }
}

fn row(name: &'static str, strict: Strict) -> Row {
    let (free, oracle, input) = (Free::Anyone, None, Input::Pipe);
    Row { name, free, strict, oracle, input, meets: None, inherits: false }
}

fn denied(name: &'static str, errnos: &'static [i32]) -> Row {
    row(name, Strict::Denied(errnos))
}

fn residual(name: &'static str) -> Row {
    row(name, Strict::Residual)
}

const EPERM: i32 = 1;
const ESRCH: i32 = 3;
const EBADF: i32 = 9;
const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const EXDEV: i32 = 18;
const EINVAL: i32 = 22;
const EMFILE: i32 = 24;
const ENOSYS: i32 = 38;
const EPROTONOSUPPORT: i32 = 93;
const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;
const ENETUNREACH: i32 = 101;
const ECONNREFUSED: i32 = 111;

/// A capability or a filter is lacking: EPERM; a filter may say that the call does not exist.
const CALL: &[i32] = &[EPERM, ENOSYS];
/// Another's process: Landlock's domains, or a filter.
const PROCESS: &[i32] = &[EPERM, EACCES, ESRCH, ENOSYS];
/// A path that no rule grants.
const PATH: &[i32] = &[EACCES];
/// A link or a rename across what different rules grant.
const ACROSS: &[i32] = &[EACCES, EXDEV];
/// The kernel's files: Landlock, or the file's own permissions.
const FILE: &[i32] = &[EACCES, EPERM];
/// An empty network namespace, Landlock, or a filter of protocols.
const NETWORK: &[i32] = &[ENETUNREACH, EADDRNOTAVAIL, EACCES, EPROTONOSUPPORT];
/// A name of another network namespace, or of another domain.
const NAME: &[i32] = &[EPERM, ECONNREFUSED];
/// A family that a filter denies.
const FAMILY: &[i32] = &[EPERM, EACCES, EAFNOSUPPORT];

/// The first ABI of Landlock that knows Unix sockets that have a path.
const PATH_SOCKETS: u8 = 9;

pub(crate) fn table() -> Vec<Row> {
    [processes(), files(), sockets(), kernel(), namespaces(), programs(), resources()].concat()
}

fn processes() -> Vec<Row> {
    vec![
        denied("read_memory", PROCESS).seen(Scene::token_told),
        denied("write_memory", PROCESS).seen(Scene::memory_overwritten),
        denied("vm_read", PROCESS).seen(Scene::token_told),
        denied("vm_write", PROCESS).seen(Scene::memory_overwritten),
        denied("ptrace", PROCESS).seen(Scene::memory_overwritten),
        denied("ptrace_launcher", PROCESS).root(),
        denied("launcher_memory", PROCESS).root(),
        denied("launcher_environment", PROCESS).root(),
        denied("launcher_descriptors", PROCESS).root(),
        denied("launcher_image", PROCESS).nobody("the launcher runs from sealed memory"),
        denied("held_image", PROCESS).seen(Scene::image_overwritten).meets(Scene::end_victim),
        denied("environment", PROCESS).seen(Scene::token_told),
        residual("command_line").seen(Scene::token_told),
        denied("memory_map", PROCESS),
        denied("foreign_directory", PROCESS).seen(Scene::token_told),
        denied("foreign_root", PROCESS).seen(Scene::token_told),
        denied("foreign_descriptor", PROCESS).seen(Scene::token_told),
        residual("count_descriptors").seen(Scene::descriptors_counted),
        denied("steal_descriptor", PROCESS).seen(Scene::token_told),
        denied("compare", PROCESS),
        denied("advise_memory", PROCESS).root(),
        denied("query_pages", PROCESS),
        denied("robust_list", PROCESS),
        denied("kill", PROCESS).seen(Scene::signal_pending),
        denied("thread_kill", PROCESS).seen(Scene::signal_pending),
        denied("queue_signal", PROCESS).seen(Scene::signal_pending),
        denied("pidfd_signal", PROCESS).seen(Scene::signal_pending),
        denied("owner_signal", &[NOTHING, EPERM]).seen(Scene::signal_pending),
        residual("lower_limit").seen(Scene::limit_lowered),
        row("make_nice", Strict::ResidualOfOthers(&[EPERM])).seen(Scene::made_nice),
        row("set_affinity", Strict::ResidualOfOthers(&[EPERM])).seen(Scene::on_one_processor),
        row("set_scheduler", Strict::ResidualOfOthers(&[EPERM])).seen(Scene::made_batch),
        row("set_io_priority", Strict::ResidualOfOthers(&[EPERM])).seen(Scene::last_at_disks),
        denied("offer_to_oom_killer", FILE).seen(Scene::offered),
    ]
}

fn files() -> Vec<Row> {
    let out = |name| denied(name, PATH).seen(Scene::outside_made);
    let across = |name| denied(name, ACROSS).seen(Scene::outside_made);
    let metadata = |name, oracle| denied(name, CALL).seen(oracle);
    vec![
        denied("read_secret", PATH).seen(Scene::token_told),
        denied("read_by_working_directory", PATH).seen(Scene::token_told),
        denied("read_by_proc_cwd", PATH).seen(Scene::token_told),
        denied("read_by_proc_root", PATH).seen(Scene::token_told),
        denied("read_by_dot_dot", PATH).seen(Scene::token_told),
        denied("read_by_symbolic_link", PATH).seen(Scene::token_told),
        denied("read_by_hard_link", ACROSS).seen(Scene::token_told),
        denied("move_in", ACROSS).seen(Scene::token_told),
        denied("reopen_path", PATH).seen(Scene::token_told),
        denied("open_below_path", PATH).seen(Scene::token_told),
        denied("change_directory", PATH).seen(Scene::token_told),
        denied("open_by_handle", CALL).seen(Scene::token_told).root(),
        denied("inherited_descriptor", &[EBADF]).seen(Scene::token_told).inherits(),
        denied("reopen_input", PATH).seen(Scene::outside_changed).input(Input::File),
        denied("reopen_input_by_dev", PATH).seen(Scene::outside_changed).input(Input::File),
        denied("overwrite_outside", PATH).seen(Scene::outside_changed),
        denied("truncate_outside", PATH).seen(Scene::outside_changed),
        out("create_outside"),
        out("make_directory_outside"),
        out("symbolic_link_outside"),
        out("pipe_outside"),
        out("socket_outside"),
        across("move_out"),
        across("link_out"),
        across("link_temporary_out"),
        denied("exchange", ACROSS).seen(Scene::token_told),
        denied("remove_outside", PATH).seen(Scene::outside_changed),
        denied("overwrite_readable", PATH).seen(Scene::readable_changed),
        denied("truncate_readable", PATH).seen(Scene::readable_changed),
        metadata("change_mode", Scene::mode_changed),
        metadata("change_mode_of_open", Scene::mode_changed),
        metadata("change_mode_newly", Scene::mode_changed),
        denied("change_owner", CALL),
        metadata("change_times", Scene::times_changed),
        metadata("change_times_anciently", Scene::times_changed),
        metadata("set_attribute", Scene::attribute_set),
        metadata("set_attribute_newly", Scene::attribute_set),
        metadata("set_flags", Scene::flag_set),
        metadata("set_extended_flags", Scene::flag_set),
        metadata("set_file_attributes", Scene::flag_set),
        residual("stat_outside").seen(Scene::inode_told),
        residual("read_link_outside").seen(Scene::token_told),
        residual("watch_outside").seen(Scene::token_told).meets(Scene::make_file),
        denied("splice_secret", PATH).seen(Scene::token_told),
    ]
}

fn sockets() -> Vec<Row> {
    let by_path = |name| row(name, Strict::ResidualBefore(PATH_SOCKETS, FILE));
    vec![
        denied("connect_abstract", NAME).seen(Scene::name_connected),
        denied("send_abstract", NAME).seen(Scene::name_received),
        by_path("connect_path").seen(Scene::path_connected),
        by_path("send_path").seen(Scene::path_received),
        by_path("receive_descriptor").seen(Scene::token_told).meets(Scene::send_descriptor),
        denied("connect_tcp", NETWORK).seen(Scene::tcp_connected),
        denied("connect_mptcp", NETWORK).seen(Scene::tcp_connected),
        denied("connect_fast_open", NETWORK).seen(Scene::tcp_connected),
        denied("connect_sctp", NETWORK).seen(Scene::tcp_connected),
        denied("send_udp", NETWORK).seen(Scene::udp_received),
        denied("listen_tcp", &[EADDRNOTAVAIL, EACCES, EAGAIN])
            .seen(Scene::tcp_answered)
            .meets(Scene::connect_to),
        denied("listen_unbound", &[EAGAIN, EACCES])
            .seen(Scene::tcp_answered)
            .meets(Scene::connect_to),
        denied("receive_udp", &[EADDRNOTAVAIL, EAGAIN, EACCES])
            .seen(Scene::token_told)
            .meets(Scene::send_to),
        denied("raw_socket", FAMILY).root(),
        denied("packet_socket", FAMILY).root(),
        denied("netlink_interfaces", &[NOTHING, EPERM, EAFNOSUPPORT]),
        denied("bind_vsock", FAMILY),
        denied("cipher_socket", FAMILY),
        residual("shared_memory").seen(Scene::token_told),
        residual("message_queue").seen(Scene::token_told),
        residual("semaphore").seen(Scene::semaphore_set),
        denied("posix_queue", FILE).seen(Scene::token_told),
        denied("read_key", CALL).seen(Scene::token_told),
        denied("add_key", CALL),
        denied("session_keyring", CALL),
    ]
}

fn kernel() -> Vec<Row> {
    vec![
        denied("ring", CALL),
        denied("ring_open", CALL).seen(Scene::token_told),
        denied("ring_connect", CALL).seen(Scene::tcp_connected),
        denied("userfaultfd", CALL),
        denied("bpf", CALL).root(),
        denied("perf_own", CALL),
        denied("perf_foreign", &[EPERM, EACCES, ENOSYS]),
        denied("load_kernel", CALL).root(),
        denied("load_kernel_file", CALL).root(),
        denied("load_module", CALL).root(),
        denied("load_module_file", CALL).root(),
        denied("unload_module", CALL).root(),
        denied("fanotify", CALL),
        denied("kernel_log", CALL).root(),
        denied("set_time", CALL).root(),
        denied("set_clock", CALL).root(),
        denied("adjust_clock", CALL).root(),
        denied("adjust_clock_newly", CALL).root(),
        denied("reboot", CALL).root(),
        denied("swap_on", CALL).root(),
        denied("swap_off", CALL).root(),
        denied("account", CALL).root(),
        denied("quota", CALL),
        denied("port", CALL).root(),
        denied("all_ports", CALL).root(),
        residual("local_descriptor_table"),
        denied("use_library", CALL),
        denied("nfs_server", CALL),
        denied("personality", CALL),
        row("call_by_i386", Strict::Killed),
        row("call_by_x32", Strict::Killed),
        denied("core_pattern", FILE).root(),
        denied("kernel_parameter", FILE).root(),
        denied("magic_keys", FILE).root(),
        denied("sys", FILE).root(),
        denied("release_agent", FILE).root(),
        denied("move_to_cgroup", FILE).root(),
        denied("physical_memory", FILE).root(),
        denied("kernel_memory", FILE).root(),
        denied("write_kernel_log", FILE).root(),
        denied("disk", FILE).root(),
        denied("make_device", FILE).seen(Scene::device_made).root(),
    ]
}

fn namespaces() -> Vec<Row> {
    vec![
        denied("unshare_user", CALL),
        denied("unshare_mounts", CALL),
        denied("unshare_names", CALL),
        denied("unshare_ipc", CALL),
        denied("unshare_network", CALL),
        denied("unshare_pids", CALL),
        denied("unshare_cgroups", CALL),
        denied("unshare_time", CALL),
        denied("clone_user", CALL),
        denied("clone3_user", CALL),
        denied("join_mounts", PROCESS).root(),
        denied("join_network", PROCESS).root(),
        denied("join_pids", PROCESS).root(),
        denied("join_by_pidfd", PROCESS).root(),
        denied("mount", CALL).root(),
        denied("unmount", CALL).root(),
        denied("move_mount", CALL).root(),
        denied("copy_mount", CALL).seen(Scene::token_told).root(),
        denied("open_file_system", CALL).root(),
        denied("pick_file_system", CALL).root(),
        denied("change_mount", CALL).root(),
        denied("pivot_root", CALL).root(),
        denied("change_root", FILE).seen(Scene::token_told).root(),
        denied("host_name", CALL).root(),
        denied("domain_name", CALL).root(),
    ]
}

fn programs() -> Vec<Row> {
    let terminal =
        |name| denied(name, &[EPERM]).seen(Scene::terminal_touched).input(Input::Terminal);
    vec![
        terminal("type_into_terminal"),
        terminal("type_with_high_bits"),
        denied("paste_into_console", &[EPERM]).input(Input::Terminal),
        denied("open_terminal", FILE).seen(Scene::terminal_touched).input(Input::Terminal),
        residual("write_to_terminal").seen(Scene::terminal_touched).input(Input::Terminal),
        denied("execute_outside", PATH),
        denied("execute_readable", PATH),
        denied("execute_by_path", PATH),
        residual("execute_memory"),
        residual("execute_by_loader").seen(Scene::typed_told),
        residual("execute_by_interpreter").seen(Scene::typed_told),
        residual("map_as_code"),
        denied("set_user_id", &[NOTHING]).root(),
        denied("set_group_id", &[NOTHING]).root(),
        denied("file_capabilities", &[NOTHING, EPERM]).root(),
        denied("capabilities_of_root", &[NOTHING]).root(),
        denied("capabilities", &[NOTHING]).root(),
        denied("raise_capability", &[EPERM]).root(),
        denied("change_user", &[EPERM, EINVAL]).root(),
        denied("change_group", &[EPERM, EINVAL]).root(),
        denied("change_groups", &[EPERM, EINVAL]).root(),
    ]
}

fn resources() -> Vec<Row> {
    vec![
        row("processes", Strict::ResidualOfRoot(&[EAGAIN])),
        denied("descriptors", &[EMFILE]),
        residual("memory"),
        residual("disk_space").seen(Scene::large_file_left),
        denied("core_file", &[NOTHING, EPERM]).seen(Scene::core_left),
        denied("raise_limit", &[EPERM]).nobody("who may is not to be counted on"),
        denied("real_time", &[EPERM]).root(),
        denied("share", &[EPERM, EACCES]).root(),
    ]
}
