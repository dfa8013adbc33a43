/*
 * Preloaded into iscsi-test-cu: writes each assertion of CUnit to the file that ASSERTIONS names,
 * one a line: "+" or "-", the source file, the line and the text of the condition.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef int assertion(int, unsigned, const char *, const char *, const char *, int);

static void note(int value, unsigned line, const char *condition, const char *file) {
    static FILE *out;
    if (out == NULL) {
        const char *path = getenv("ASSERTIONS");
        out = path != NULL ? fopen(path, "a") : NULL;
        if (out == NULL)
            return;
        setvbuf(out, NULL, _IOLBF, 0); /* a test that dies has said what it reached */
    }
    fprintf(out, "%c %s:%u %s\n", value ? '+' : '-', file, line, condition);
}

int CU_assertImplementation(int value, unsigned line, const char *condition, const char *file,
                            const char *function, int fatal) {
    assertion *real = (assertion *)dlsym(RTLD_NEXT, "CU_assertImplementation");
    note(value, line, condition, file);
    return real(value, line, condition, file, function, fatal);
}

/*
 * iSCSITMF.LUNResetSimpleAsync (1.19) looks at a flag that its callback sets before the callback
 * can have run, and goes no further when it is not set: no target passes. Here the answer to a LUN
 * reset is waited for before the call returns; what the test asserts is as it was.
 */
enum { LUN_RESET = 5, PATIENCE_MS = 5000, STEP_MS = 50 };

struct iscsi_context;
typedef void callback(struct iscsi_context *, int, void *, void *);
int iscsi_get_fd(struct iscsi_context *);
int iscsi_which_events(struct iscsi_context *);
int iscsi_service(struct iscsi_context *, int);

struct waiting {
    callback *told;
    void *data;
    int done;
};

static void answered(struct iscsi_context *iscsi, int status, void *command, void *data) {
    struct waiting *waiting = data;
    waiting->told(iscsi, status, command, waiting->data);
    waiting->done = 1;
}

int iscsi_task_mgmt_async(struct iscsi_context *iscsi, int lun, int function, uint32_t ritt,
                          uint32_t rcmdsn, callback *told, void *data) {
    typedef int manage(struct iscsi_context *, int, int, uint32_t, uint32_t, callback *, void *);
    manage *real = (manage *)dlsym(RTLD_NEXT, "iscsi_task_mgmt_async");
    static struct waiting waiting; /* an answer that comes too late finds it, too */
    if (function != LUN_RESET)
        return real(iscsi, lun, function, ritt, rcmdsn, told, data);
    waiting = (struct waiting){told, data, 0};
    int result = real(iscsi, lun, function, ritt, rcmdsn, answered, &waiting);
    for (int ms = 0; result == 0 && !waiting.done && ms < PATIENCE_MS; ms += STEP_MS) {
        struct pollfd ready = {iscsi_get_fd(iscsi), iscsi_which_events(iscsi), 0};
        if (poll(&ready, 1, STEP_MS) > 0 && iscsi_service(iscsi, ready.revents) < 0)
            break;
    }
    return result;
}
