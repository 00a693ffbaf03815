/* An audit hook (PEP 578) that calls a function before this process is replaced, forks, starts or signals another. */
#ifndef UL_AUDIT_H
#define UL_AUDIT_H
#include <Python.h>
#include <string.h>

static void (*ul_before_leaving)(void);
static PyInterpreterState *ul_interpreter;

static int ul_audit(const char *event, PyObject *Py_UNUSED(arguments), void *Py_UNUSED(data))
{
    /* os.exec, os.fork, os.forkpty, os.kill, os.killpg, os.posix_spawn, os.spawn, os.system; subprocess.Popen;
       signal.pthread_kill */
    if (event[0] == 'o' ? strncmp(event, "os.exec", 7) && strncmp(event, "os.fork", 7) && strncmp(event, "os.kill", 7)
            && strncmp(event, "os.posix_spawn", 14) && strncmp(event, "os.spawn", 8) && strcmp(event, "os.system")
                        : strcmp(event, "subprocess.Popen") && strcmp(event, "signal.pthread_kill"))
        return 0;
    if (PyInterpreterState_Get() == ul_interpreter)  /* which has the GIL that guards what the function touches */
        ul_before_leaving();
    return 0;
}

/* Once per process: a hook cannot be removed.  An older hook may refuse it; then there is none.  Returns whether it was
   the first time. */
static int ul_add_audit_hook(void (*function)(void))
{
    if (ul_before_leaving != NULL)
        return 0;
    ul_before_leaving = function;
    ul_interpreter = PyInterpreterState_Get();
    if (PySys_AddAuditHook(ul_audit, NULL) < 0)
        PyErr_Clear();
    return 1;
}

#endif
