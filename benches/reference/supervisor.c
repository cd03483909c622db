/* A supervisor of the smallest kind, for benches: starts whichever launcher with the wiring of the version 1 fixtures
   (executable at 10, read roots at 20-24, write root at 16, plan, control and error fds above) and times it, beside
   a posix_spawn of the workload itself. What differs between two launchers is then theirs.
   cc -O2 supervisor.c;  supervisor ROUNDS LIST
   A line of LIST is tab-separated: the workload, a file with the plan's frame, the launcher and its arguments; with
   the workload alone it is the posix_spawn. Each round launches every line once, in an order of its own; round 0
   finds caches cold, and is not told. Prints, tab-separated: the round, the line, the nanoseconds until all fds are
   prepared, and those from there to the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXE = 10, WRITE_ROOT = 16, READ_ROOTS = 20, CONTROL = 30, PLAN, ERROR, ERROR_READ };
enum { FIRST_OWN = 64, FDS = 11, LINES = 64, WORDS = 16 };

struct candidate {
  char *workload, *argv[WORDS], frame[1 << 16];
  size_t frame_length;
};

static struct candidate candidates[LINES];
static const char *roots[] = {"/usr", "/bin", "/lib", "/lib64", "/etc"};

static void fail(const char *format, ...) {
  int error = errno;
  va_list arguments;
  va_start(arguments, format);
  fputs("supervisor: ", stderr);
  vfprintf(stderr, format, arguments);
  if (error) fprintf(stderr, ": %s", strerror(error));
  fputc('\n', stderr);
  exit(1);
}

static long long now(void) {
  struct timespec it;
  clock_gettime(CLOCK_MONOTONIC, &it);
  return it.tv_sec * 1000000000LL + it.tv_nsec;
}

/* An fd out of the way of the slots, which are filled one after the other. */
static int high(int fd) {
  int moved = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_OWN);
  if (moved < 0) fail("an fd");
  close(fd);
  return moved;
}

static int path(const char *name) {
  int fd = open(name, O_PATH | O_CLOEXEC);
  /* A machine without one of the roots has another twice. */
  if (fd < 0 && (fd = open("/usr", O_PATH | O_CLOEXEC)) < 0) fail("%s", name);
  return high(fd);
}

static int sealed(const struct candidate *it) {
  int fd = memfd_create("plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || pwrite(fd, it->frame, it->frame_length, 0) != (ssize_t)it->frame_length ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
    fail("the plan");
  return high(fd);
}

static void ended(pid_t pid, const char *what, const char *said) {
  int status;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) fail("%s", what);
  errno = 0;
  if (status) fail("%s: wait status %#x\n%s", what, status, said);
}

static void spawn(pid_t *pid, const char *program, const posix_spawn_file_actions_t *slots, char **argv, char **envp) {
  errno = posix_spawn(pid, program, slots, 0, argv, envp);
  if (errno) fail("%s", program);
}

/* Returns when all was prepared. */
static long long launch(const struct candidate *it) {
  static char said[1 << 16], *alone[] = {0, 0}, *envp[] = {"PATH=/usr/bin:/bin", 0};
  static char *wiring[] = {"BVISOR_CONTROL_FD=30", "BVISOR_LAUNCH_PLAN_FD=31", "BVISOR_ERROR_FD=32",
                           "BVISOR_ERROR_READ_FD=33", 0};
  int control[2], error[2], fds[FDS], slots[FDS], count = 0;
  posix_spawn_file_actions_t actions;
  pid_t pid;
  said[0] = 0;
  if (!it->frame_length) {
    long long prepared = now();
    alone[0] = it->workload;
    spawn(&pid, it->workload, 0, alone, envp);
    ended(pid, it->workload, said);
    return prepared;
  }
  fds[count] = path(it->workload), slots[count++] = EXE;
  fds[count] = path("/tmp"), slots[count++] = WRITE_ROOT;
  for (int i = 0; i < 5; i++) fds[count] = path(roots[i]), slots[count++] = READ_ROOTS + i;
  if (pipe2(control, O_CLOEXEC) || pipe2(error, O_CLOEXEC)) fail("a pipe");
  fds[count] = high(control[1]), slots[count++] = CONTROL;
  fds[count] = sealed(it), slots[count++] = PLAN;
  fds[count] = high(error[1]), slots[count++] = ERROR;
  fds[count] = high(error[0]), slots[count++] = ERROR_READ;
  long long prepared = now();
  posix_spawn_file_actions_init(&actions);
  for (int i = 0; i < FDS; i++)
    if (posix_spawn_file_actions_adddup2(&actions, fds[i], slots[i])) fail("a slot");
  spawn(&pid, it->argv[0], &actions, (char **)it->argv, wiring);
  posix_spawn_file_actions_destroy(&actions);
  for (int i = 0; i < FDS; i++) close(fds[i]);
  size_t length = 0;
  ssize_t got;
  while ((got = read(control[0], said + length, sizeof said - 1 - length)) > 0) length += got;
  if (got < 0) fail("the transcript");
  said[length] = 0;
  close(control[0]);
  ended(pid, it->argv[0], said);
  errno = 0;
  if (!strstr(said, "ReadyToExec")) fail("%s was not ready to exec:\n%s", it->argv[0], said);
  return prepared;
}

static int read_list(const char *name) {
  char *line = 0;
  size_t size = 0;
  int count = 0;
  FILE *list = fopen(name, "re");
  if (!list) fail("%s", name);
  for (; getline(&line, &size, list) > 0; count++) {
    if (count == LINES) fail("more than %d lines", LINES);
    struct candidate *it = &candidates[count];
    char *rest = strdup(line), *frame;
    rest[strcspn(rest, "\n")] = 0;
    it->workload = strsep(&rest, "\t");
    if (!(frame = strsep(&rest, "\t"))) continue;
    for (int i = 0; rest && i < WORDS - 1; i++) it->argv[i] = strsep(&rest, "\t");
    FILE *file = fopen(frame, "re");
    if (!file || !it->argv[0]) fail("%s", frame);
    it->frame_length = fread(it->frame, 1, sizeof it->frame, file);
    fclose(file);
    if (!it->frame_length) fail("%s is empty", frame);
  }
  return count;
}

int main(int argc, char **argv) {
  int order[LINES];
  if (argc != 3) fail("ROUNDS LIST");
  int rounds = atoi(argv[1]), count = read_list(argv[2]);
  for (int i = 0; i < count; i++) order[i] = i;
  srandom(now());
  for (int round = 0; round <= rounds; round++) {
    for (int i = count - 1; i > 0; i--) {
      int other = random() % (i + 1), moved = order[i];
      order[i] = order[other], order[other] = moved;
    }
    for (int i = 0; i < count; i++) {
      long long start = now(), prepared = launch(&candidates[order[i]]), end = now();
      if (round) printf("%d\t%d\t%lld\t%lld\n", round, order[i], prepared - start, end - prepared);
    }
  }
  return 0;
}
