/* Makes a bindfs another user's once it has mounted: its init callback is what calls fchdir. Then the system asks nobody's rights of all that is
 * done in the mount, whoever does it. And libfuse 2 is told to pass on a time of modification that comes without one of access, as tar sets it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <grp.h>
#include <string.h>
#include <unistd.h>

#define NOBODY 65534
#define FLAGS_OFFSET (38 * sizeof(void *)) /* of struct fuse_operations, behind its first 38 functions */
#define UTIME_OMIT_OK 4

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

int fchdir(int directory)
{
    int (*real)(int) = (int (*)(int))next("fchdir");
    int result = real(directory);
    if (geteuid() == 0 && (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY)))
        _exit(1);
    return result;
}

int fuse_main_real(int argc, char *argv[], const void *operations, size_t size, void *data)
{
    int (*real)(int, char **, const void *, size_t, void *) = (int (*)(int, char **, const void *, size_t, void *))next("fuse_main_real");
    int (*version)(void) = (int (*)(void))next("fuse_version");
    static char changed[4096];
    if (version() < 30 && size >= FLAGS_OFFSET + sizeof(unsigned) && size <= sizeof changed) {
        memcpy(changed, operations, size);
        *(unsigned *)(changed + FLAGS_OFFSET) |= UTIME_OMIT_OK;
        operations = changed;
    }
    return real(argc, argv, operations, size, data);
}
