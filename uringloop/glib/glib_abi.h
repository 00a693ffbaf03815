/* The part of GLib's stable ABI that the native source needs.  No GLib header: the library is found at run time. */
#ifndef URINGLOOP_GLIB_ABI_H
#define URINGLOOP_GLIB_ABI_H

#include <dlfcn.h>
#include <stddef.h>

/* GSource is 96 bytes on LP64 since GLib 2.36 (older members were never moved); g_source_new() gets the whole size,
   so what lies between its end and `owner` is spare room, not a guess about its members. */
struct ul_glib_source {
    char base[160];
    void *owner; /* borrowed; NULL once the Python object is gone */
};

struct ul_glib_source_funcs { /* GSourceFuncs */
    int (*prepare)(void *source, int *timeout_ms);
    int (*check)(void *source);
    int (*dispatch)(void *source, void *callback, void *user_data);
    void (*finalize)(void *source);
    void *closure_callback;
    void *closure_marshal;
};

static struct {
    void *(*main_context_default)(void);
    void *(*main_context_ref)(void *context);
    void (*main_context_unref)(void *context);
    int (*main_context_acquire)(void *context);
    void (*main_context_release)(void *context);
    int (*main_context_is_owner)(void *context);
    int (*main_context_iteration)(void *context, int may_block);
    void *(*source_new)(struct ul_glib_source_funcs *funcs, unsigned size);
    unsigned (*source_attach)(void *source, void *context);
    void (*source_destroy)(void *source);
    int (*source_is_destroyed)(void *source);
    void (*source_unref)(void *source);
    void (*source_set_priority)(void *source, int priority);
    void (*source_set_can_recurse)(void *source, int can_recurse);
    void (*source_set_name)(void *source, const char *name);
    void *(*source_add_unix_fd)(void *source, int fd, int events);
    void (*source_remove_unix_fd)(void *source, void *tag);
    void (*source_modify_unix_fd)(void *source, void *tag, int events);
    int (*source_query_unix_fd)(void *source, void *tag);
} ul_glib;

/* NULL, or the name that could not be found. */
static const char *ul_glib_load(void)
{
    static const char library[] = "libglib-2.0.so.0";
    void *handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL);
    if (handle == NULL)
        return library;
#define UL_GLIB_FIND(name)                                         \
    do {                                                           \
        *(void **)&ul_glib.name = dlsym(handle, "g_" #name);       \
        if (*(void **)&ul_glib.name == NULL)                       \
            return "g_" #name;                                     \
    } while (0)
    UL_GLIB_FIND(main_context_default);
    UL_GLIB_FIND(main_context_ref);
    UL_GLIB_FIND(main_context_unref);
    UL_GLIB_FIND(main_context_acquire);
    UL_GLIB_FIND(main_context_release);
    UL_GLIB_FIND(main_context_is_owner);
    UL_GLIB_FIND(main_context_iteration);
    UL_GLIB_FIND(source_new);
    UL_GLIB_FIND(source_attach);
    UL_GLIB_FIND(source_destroy);
    UL_GLIB_FIND(source_is_destroyed);
    UL_GLIB_FIND(source_unref);
    UL_GLIB_FIND(source_set_priority);
    UL_GLIB_FIND(source_set_can_recurse);
    UL_GLIB_FIND(source_set_name);
    UL_GLIB_FIND(source_add_unix_fd);
    UL_GLIB_FIND(source_remove_unix_fd);
    UL_GLIB_FIND(source_modify_unix_fd);
    UL_GLIB_FIND(source_query_unix_fd);
#undef UL_GLIB_FIND
    return NULL;
}

#endif
