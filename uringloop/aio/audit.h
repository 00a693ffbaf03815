/* An audit hook (PEP 578) that calls a function before this process is replaced, forks, starts or signals another. */
#ifndef UL_AUDIT_H
#define UL_AUDIT_H
#include <Python.h>
#include <string.h>

/* Whether the interpreter of this thread has contexts at all: the function looks at its own. */
#if CYTHON_USE_MODULE_STATE
static PyObject *ul_own_module(void);
#define UL_IS_IMPORTED_HERE() (ul_own_module() != NULL)
#else
#define UL_IS_IMPORTED_HERE() (PyInterpreterState_Get() == PyInterpreterState_Main())
#endif

static void (*ul_before_leaving)(void);

static int ul_audit(const char *event, PyObject *Py_UNUSED(arguments), void *Py_UNUSED(data))
{
    /* os.exec, os.fork, os.forkpty, os.kill, os.killpg, os.posix_spawn, os.spawn, os.system; subprocess.Popen;
       signal.pthread_kill */
    if (event[0] == 'o' ? strncmp(event, "os.exec", 7) && strncmp(event, "os.fork", 7) && strncmp(event, "os.kill", 7)
            && strncmp(event, "os.posix_spawn", 14) && strncmp(event, "os.spawn", 8) && strcmp(event, "os.system")
                        : strcmp(event, "subprocess.Popen") && strcmp(event, "signal.pthread_kill"))
        return 0;
    if (UL_IS_IMPORTED_HERE())
        ul_before_leaving();
    return 0;
}

/* Once per process, for all interpreters: a hook cannot be removed.  An older one may refuse it; then there is none. */
static void ul_add_audit_hook(void (*function)(void))
{
    if (__atomic_exchange_n(&ul_before_leaving, function, __ATOMIC_SEQ_CST) == NULL
        && PySys_AddAuditHook(ul_audit, NULL) < 0)
        PyErr_Clear();
}

#endif
