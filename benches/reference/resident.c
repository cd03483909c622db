/* The limit of a resident launcher, for benches: a process that is asked by messages with fds to launch a workload,
   verifies nothing, and makes the same system calls in its children. Both ends are here, and a posix_spawn of the
   workload, interleaved. Prints the medians in nanoseconds: of the posix_spawn, and of launches with the scrub,
   with Landlock over six roots and seccomp, and with these where the roots and the ruleset are there already.
   cc -O2 resident.c;  resident ROUNDS WORKLOAD */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The fds of a message, in their order. */
enum { EXE, WRITE_ROOT, READ_ROOTS, READ_ROOT_COUNT = 5, PLAN = READ_ROOTS + READ_ROOT_COUNT, CONTROL, STREAMS, FDS = STREAMS + 3 };
enum { SCRUB, CONFINED, KEPT, KINDS, MOST_ROUNDS = 10000 };

static char stack[1 << 16], *environment[] = {"PATH=/usr/bin:/bin", 0}, *words[] = {"true", 0};
static int fds[FDS], ruleset, confined;

static struct sock_filter filter[] = {
  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
#define DENY(n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1)
  DENY(SYS_clone), DENY(SYS_clone3), DENY(SYS_fork), DENY(SYS_vfork), DENY(SYS_socket),
  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

static void must(int holds, const char *what) {
  if (!holds) { perror(what); exit(1); }
}

static int child(void *unused) {
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  (void)unused;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int i = 0; i < 3; i++) dup2(fds[STREAMS + i], i);
  int low = confined && ruleset < fds[EXE] ? ruleset : fds[EXE], high = low == ruleset ? fds[EXE] : ruleset;
  if (low > 3) syscall(SYS_close_range, 3, low - 1, 0);
  if (confined) {
    syscall(SYS_close_range, low + 1, high - 1, 0);
    syscall(SYS_close_range, high + 1, ~0U, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(SYS_landlock_restrict_self, ruleset, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) _exit(127);
  } else {
    syscall(SYS_close_range, fds[EXE] + 1, ~0U, 0);
  }
  syscall(SYS_execveat, fds[EXE], "", words, environment, AT_EMPTY_PATH);
  _exit(127);
}

static void rules(void) {
  unsigned long long handled = 0x7fff;
  ruleset = syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
  must(ruleset >= 0, "landlock_create_ruleset");
  for (int i = 0; i <= READ_ROOT_COUNT; i++) {
    int at = i ? READ_ROOTS + i - 1 : WRITE_ROOT;
    struct landlock_path_beneath_attr rule = {.allowed_access = i ? 1 | 4 | 8 : handled, .parent_fd = fds[at]};
    must(!syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0), "landlock_add_rule");
  }
  fcntl(ruleset, F_SETFD, FD_CLOEXEC);
}

union with_fds { struct cmsghdr head; char room[CMSG_SPACE(sizeof fds)]; };

static void serve(int socket) {
  int own[FDS], kept;
  rules();
  memcpy(own, fds, sizeof own);
  kept = ruleset;
  for (;;) {
    char kind, plan[8192], end[32];
    union with_fds with;
    struct iovec one = {&kind, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = &with, .msg_controllen = sizeof with};
    int status;
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0) _exit(0);
    int first = kind == KEPT ? CONTROL : 0;
    if (kind == KEPT) memcpy(fds, own, sizeof fds);
    memcpy(fds + first, CMSG_DATA(&with.head), (FDS - first) * sizeof *fds);
    if (kind != KEPT) must(pread(fds[PLAN], plan, sizeof plan, 0) > 0, "the plan");
    confined = kind != SCRUB;
    ruleset = kept;
    if (kind == CONFINED) rules();
    pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, 0);
    must(pid > 0, "clone");
    static const char states[] = "ChildCreated\nReadyToExec\nExecSucceeded\n";
    must(write(fds[CONTROL], states, sizeof states - 1) > 0, "the transcript");
    for (int i = first; i < FDS; i++) if (i != CONTROL) close(fds[i]);
    if (kind == CONFINED) close(ruleset);
    waitpid(pid, &status, 0);
    snprintf(end, sizeof end, "exited %d\n", status);
    must(write(fds[CONTROL], end, strlen(end)) > 0, "the transcript");
    close(fds[CONTROL]);
  }
}

static void ask(int socket, char kind) {
  char said[4096];
  int control[2];
  size_t length = 0;
  ssize_t got;
  int first = kind == KEPT ? CONTROL : 0;
  size_t size = (FDS - first) * sizeof *fds;
  union with_fds with = {.head = {CMSG_LEN(size), SOL_SOCKET, SCM_RIGHTS}};
  struct iovec one = {&kind, 1};
  struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = &with, .msg_controllen = CMSG_SPACE(size)};
  must(!pipe2(control, O_CLOEXEC), "a pipe");
  fds[CONTROL] = control[1];
  memcpy(CMSG_DATA(&with.head), fds + first, size);
  must(sendmsg(socket, &message, 0) == 1, "a message");
  close(control[1]);
  while ((got = read(control[0], said + length, sizeof said - 1 - length)) > 0) length += got;
  close(control[0]);
  said[length] = 0;
  if (!strstr(said, "exited 0\n")) { fprintf(stderr, "resident: %s\n", said); exit(1); }
}

static void spawn(const char *workload) {
  pid_t pid;
  int status;
  must(!posix_spawn(&pid, workload, 0, 0, words, environment), workload);
  must(waitpid(pid, &status, 0) == pid && !status, workload);
}

static int path(const char *name) {
  int fd = open(name, O_PATH | O_CLOEXEC);
  if (fd < 0) fd = open("/usr", O_PATH | O_CLOEXEC);
  must(fd >= 0, name);
  return fd;
}

static long long now(void) {
  struct timespec it;
  clock_gettime(CLOCK_MONOTONIC, &it);
  return it.tv_sec * 1000000000LL + it.tv_nsec;
}

static int by_size(const void *one, const void *other) {
  long long a = *(const long long *)one, b = *(const long long *)other;
  return (a > b) - (a < b);
}

int main(int argc, char **argv) {
  static const char *roots[] = {"/usr", "/bin", "/lib", "/lib64", "/etc"};
  static long long took[1 + KINDS][MOST_ROUNDS];
  int ends[2], rounds = argc == 3 ? atoi(argv[1]) : 0;
  if (rounds < 1 || rounds > MOST_ROUNDS) { fprintf(stderr, "resident ROUNDS WORKLOAD\n"); return 1; }
  must(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), "a socket");
  fds[EXE] = path(argv[2]), fds[WRITE_ROOT] = path("/tmp");
  for (int i = 0; i < READ_ROOT_COUNT; i++) fds[READ_ROOTS + i] = path(roots[i]);
  fds[PLAN] = memfd_create("plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  must(fds[PLAN] >= 0 && !ftruncate(fds[PLAN], 2048) &&
       !fcntl(fds[PLAN], F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), "the plan");
  for (int i = 0; i < 3; i++) fds[STREAMS + i] = i;
  pid_t resident = fork();
  must(resident >= 0, "fork");
  if (!resident) { close(ends[0]); serve(ends[1]); }
  close(ends[1]);
  for (int round = -10; round < rounds; round++) {
    for (int i = 0, first = rand(); i < 1 + KINDS; i++) {
      int which = (first % (1 + KINDS) + i) % (1 + KINDS);
      long long start = now();
      if (which) ask(ends[0], which - 1); else spawn(argv[2]);
      if (round >= 0) took[which][round] = now() - start;
    }
  }
  for (int which = 0; which < 1 + KINDS; which++) {
    qsort(took[which], rounds, sizeof **took, by_size);
    printf("%lld\n", took[which][rounds / 2]);
  }
  return 0;
}
