// SPDX-License-Identifier: Apache-2.0
// The guest's whole init: one static program, the only one in its initramfs. A shell there costs 2 to 3 seconds more,
// for an emulated processor needs 40 to 110 ms to start any program.
//
//   load the modules of the initramfs, in the order of /lib/modules/order
//   / := the host's / (9p, read only) below a tmpfs that takes what is written
//   /run/share := the folder that run.sh shares: `setup` and `command` come from there, `began` and `status` go there
//   run the command with its output in /run/share/output, write its status, power off
//
// `setup` has lines of a WORD and its arguments:
//   layer TAG       the 9p export TAG, laid over the host's / (the first is uppermost); an export of its own, for an
//                   overlay takes no layer that lies within another
//   keep DIR        a folder of the host below /tmp, /run or /dev/shm, which the guest's own would hide; read only
//   write TAG DIR   the 9p export TAG, mounted at DIR: what is written there is the host's
//   scratch DEVICE  an ext4 to be mounted, with project quota, at /run/scratch
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_BYTES 4096
#define OPTIONS_9P "trans=virtio,version=9p2000.L,msize=512000,access=any"

// printf into a string that only lasts until the next but three call.
__attribute__((format(printf, 1, 2))) static const char *text(const char *format, ...) {
    static char ring[4][2 * LINE_BYTES];
    static unsigned next;
    char *out = ring[next++ % 4];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out, sizeof ring[0], format, arguments);
    va_end(arguments);
    return out;
}

static void complain(const char *what) {
    printf("init: %s: %s\n", what, strerror(errno)); // the console: run.sh shows it when the guest does not finish
    fflush(stdout);
}

static void die(const char *what) {
    complain(what);
    reboot(RB_POWER_OFF);
}

static void mount_or_complain(const char *source, const char *target, const char *type, unsigned long flags,
                              const char *options) {
    if (mount(source, target, type, flags, options) != 0) complain(text("mount %s on %s", source, target));
}

static void make_dirs(const char *path) {
    char *copy = strdup(path);
    for (char *slash = strchr(copy + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(copy, 0755);
        *slash = '/';
    }
    mkdir(copy, 0755);
    free(copy);
}

// Calls handle(word, rest of the line) for each line of a file.
static void each_line(const char *path, void (*handle)(const char *word, char *rest)) {
    FILE *file = fopen(path, "re");
    char line[LINE_BYTES];
    if (file == NULL) {
        complain(path);
        return;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *rest = strchr(line, ' ');
        if (rest != NULL) *rest++ = '\0';
        handle(line, rest != NULL ? rest : "");
    }
    fclose(file);
}

static void load_module(const char *name, char *parameters) {
    const char *path = text("/lib/modules/%s", name);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, parameters, 0) != 0 && errno != EEXIST)) complain(path);
    if (fd >= 0) close(fd);
}

static char lower[2 * LINE_BYTES]; // lowerdir= of the overlay

static void add_layer(const char *word, char *tag) {
    if (strcmp(word, "layer") != 0) return;
    const char *target = text("/layer-%s", tag);
    mkdir(target, 0755);
    mount_or_complain(tag, target, "9p", MS_RDONLY, OPTIONS_9P ",cache=loose");
    strcat(strcat(lower, target), ":");
}

// The root to be, at /tmpfs/root; the working directory is there afterwards.
static void build_root(void) {
    mkdir("/host", 0755);
    mkdir("/share", 0755);
    mkdir("/tmpfs", 0755);
    // cache=loose: nobody changes the host's files meanwhile; what is shared for writing goes without.
    if (mount("host", "/host", "9p", MS_RDONLY, OPTIONS_9P ",cache=loose") != 0) die("the host's /");
    if (mount("share", "/share", "9p", 0, OPTIONS_9P) != 0) die("the shared folder");
    mount_or_complain("tmpfs", "/tmpfs", "tmpfs", 0, "mode=755");
    mkdir("/tmpfs/upper", 0755);
    mkdir("/tmpfs/work", 0755);
    mkdir("/tmpfs/root", 0755);
    each_line("/share/setup", add_layer);
    strcat(lower, "/host");
    const char *options = text("lowerdir=%s,upperdir=/tmpfs/upper,workdir=/tmpfs/work", lower);
    if (mount("overlay", "/tmpfs/root", "overlay", 0, options) != 0) die("the overlay over the host's /");
    if (chdir("/tmpfs/root") != 0) die("/tmpfs/root");
}

static void mount_own_file_systems(void) {
    mount_or_complain("devtmpfs", "dev", "devtmpfs", 0, NULL);
    mount_or_complain("proc", "proc", "proc", 0, NULL);
    mount_or_complain("sysfs", "sys", "sysfs", 0, NULL);
    mount_or_complain("tmpfs", "run", "tmpfs", 0, "mode=755");
    mount_or_complain("tmpfs", "tmp", "tmpfs", 0, "mode=1777");
    mkdir("dev/pts", 0755);
    mkdir("dev/shm", 0755);
    mkdir("run/lock", 0755);
    mkdir("run/share", 0755);
    mount_or_complain("devpts", "dev/pts", "devpts", 0, NULL);
    mount_or_complain("tmpfs", "dev/shm", "tmpfs", 0, "mode=1777");
    // What udev would make; bash needs them for <( ).
    (void)!symlink("/proc/self/fd", "dev/fd");
    (void)!symlink("/proc/self/fd/0", "dev/stdin");
    (void)!symlink("/proc/self/fd/1", "dev/stdout");
    (void)!symlink("/proc/self/fd/2", "dev/stderr");
}

static void set_up(const char *word, char *rest) {
    if (strcmp(word, "keep") == 0) {
        const char *target = text(".%s", rest);
        make_dirs(target);
        mount_or_complain(text("/host%s", rest), target, NULL, MS_BIND, NULL);
    } else if (strcmp(word, "write") == 0) {
        const char *tag = strsep(&rest, " ");
        const char *target = text(".%s", rest != NULL ? rest : "");
        make_dirs(target);
        mount_or_complain(tag, target, "9p", 0, OPTIONS_9P);
    } else if (strcmp(word, "scratch") == 0) {
        mkdir("run/scratch", 0755);
        mkdir("/dev", 0755); // a name in the table of mounts that means the same in the root to be
        mount_or_complain("devtmpfs", "/dev", "devtmpfs", 0, NULL);
        mount_or_complain(text("/dev/%s", rest), "run/scratch", "ext4", 0, "prjquota");
        chmod("run/scratch", 01777);
    }
}

// Process 1 itself has to change its root: the kernel's helper threads share it.
static void enter_root(void) {
    mount_or_complain("/share", "run/share", NULL, MS_MOVE, NULL);
    if (mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0) die("entering the root");
}

static void become_command(void) {
    const int nothing = open("/dev/null", O_RDONLY);
    const int output = open("/run/share/output", O_WRONLY | O_CREAT | O_APPEND, 0644);
    setsid();
    dup2(nothing, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    // Nothing else is inherited: lvm complains of each descriptor.
    for (int fd = STDERR_FILENO + 1; fd < 16; ++fd)
        close(fd);
    execl("/run/share/command", "command", NULL);
    complain("/run/share/command");
    _exit(126);
}

// Runs the command, reaps what it leaves behind meanwhile; its exit status as a shell tells it.
static int run_command(void) {
    close(open("/run/share/began", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    const pid_t command = fork();
    if (command == 0) become_command();
    for (;;) {
        int status = 0;
        const pid_t ended = wait(&status);
        if (ended == command) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (ended < 0 && errno != EINTR) return 126;
    }
}

static void write_status(int status) {
    const int fd = open("/run/share/status.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || dprintf(fd, "%d\n", status) < 0 || fsync(fd) != 0) complain("the exit status");
    rename("/run/share/status.new", "/run/share/status");
}

int main(void) {
    if (getpid() != 1) return 1;
    mount_or_complain("proc", "/proc", "proc", 0, NULL);
    each_line("/lib/modules/order", load_module);
    build_root();
    mount_own_file_systems();
    each_line("/share/setup", set_up);
    enter_root();
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    write_status(run_command());
    sync();
    reboot(RB_POWER_OFF);
    return 0;
}
