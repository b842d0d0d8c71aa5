"""Makes libraries that stand for NVIDIA's when Keystep is linked, and open them when it runs.

cudarc, as candle asks for it, links libcuda, libcublas and others by name. They are not here, and a
program that was linked with them does not even start on a machine without them. So each becomes a
static library of one jump per function: the first call opens the real library and finds the
function; where there is none, the call gives the error that the real library has for "not there",
and Keystep says that no device answers.

    late_binding.py CUDARC_SOURCE TARGET_FOLDER

Knows x86-64 and the System V calling convention alone.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

# Name for the linker: where cudarc declares its functions, the file to open, and what a call gives
# where the file or the function is missing.
LIBRARIES = {
    # CUDA_ERROR_NO_DEVICE
    "cuda": ("driver", "libcuda.so.1", 100),
    # CUBLAS_STATUS_NOT_INITIALIZED
    "cublas": ("cublas", "libcublas.so.13", 1),
    "cublasLt": ("cublaslt", "libcublasLt.so.13", 1),
    # CURAND_STATUS_INITIALIZATION_FAILED
    "curand": ("curand", "libcurand.so.10", 203),
    # NVRTC_ERROR_INTERNAL_ERROR; no kernel is compiled while Keystep runs.
    "nvrtc": ("nvrtc", "libnvrtc.so.13", 11),
}

# All registers that carry arguments are kept around the search. Two threads may search at once, and
# find the same.
ASSEMBLY = """
    .section .note.GNU-stack,"",@progbits
    .text
    .type late_{library}_resolve, @function
late_{library}_resolve:
    push %rdi
    push %rsi
    push %rdx
    push %rcx
    push %r8
    push %r9
    push %rax
    sub $136, %rsp
    movdqu %xmm0, (%rsp)
    movdqu %xmm1, 16(%rsp)
    movdqu %xmm2, 32(%rsp)
    movdqu %xmm3, 48(%rsp)
    movdqu %xmm4, 64(%rsp)
    movdqu %xmm5, 80(%rsp)
    movdqu %xmm6, 96(%rsp)
    movdqu %xmm7, 112(%rsp)
    # What was pushed by the caller (the return address), by the stub and here, and these 136 bytes
    # leave the stack aligned to 16, as a call must find it. The index lies above all that.
    mov 192(%rsp), %rdi
    call late_{library}_find
    mov %rax, %r11
    movdqu (%rsp), %xmm0
    movdqu 16(%rsp), %xmm1
    movdqu 32(%rsp), %xmm2
    movdqu 48(%rsp), %xmm3
    movdqu 64(%rsp), %xmm4
    movdqu 80(%rsp), %xmm5
    movdqu 96(%rsp), %xmm6
    movdqu 112(%rsp), %xmm7
    add $136, %rsp
    pop %rax
    pop %r9
    pop %r8
    pop %rcx
    pop %rdx
    pop %rsi
    pop %rdi
    add $8, %rsp
    jmp *%r11
"""

STUB = """
    .globl {name}
    .type {name}, @function
{name}:
    mov late_{library}_found+{offset}(%rip), %r11
    test %r11, %r11
    je 1f
    jmp *%r11
1:  push ${index}
    jmp late_{library}_resolve
"""

FINDER = """
#define _GNU_SOURCE
#include <dlfcn.h>

static const char *const names[] = {{ {names} }};
__attribute__((visibility("hidden"))) void *late_{library}_found[{count}];

static int missing(void) {{ return {error}; }}

__attribute__((visibility("hidden"))) void *late_{library}_find(long index) {{
    /* Opened once, and never closed: a second open of the same file gives the same handle. */
    void *library = dlopen("{file}", RTLD_NOW | RTLD_GLOBAL);
    void *found = library ? dlsym(library, names[index]) : 0;
    /* What is missing is looked for again: nothing calls it in a loop. */
    if (found) __atomic_store_n(&late_{library}_found[index], found, __ATOMIC_RELEASE);
    return found ? found : (void *)missing;
}}
"""


def functions(source):
    """The functions that a binding declares to the linker."""
    text = (source / "sys" / "mod.rs").read_text()
    declared = re.findall(r'extern "C" \{\s*fn (\w+)\(', text)
    if not declared:
        sys.exit(f"{source} declares no function in the form that this script knows")
    return sorted(set(declared))


def make(library, module, file, error, cudarc, target, scratch):
    names = functions(cudarc / "src" / module)
    stubs = [
        STUB.format(name=name, library=library, index=index, offset=8 * index)
        for index, name in enumerate(names)
    ]
    assembly = scratch / f"{library}_jumps.s"
    assembly.write_text(ASSEMBLY.format(library=library) + "".join(stubs))
    finder = scratch / f"{library}_find.c"
    finder.write_text(
        FINDER.format(
            names=", ".join(f'"{name}"' for name in names),
            library=library,
            count=len(names),
            error=error,
            file=file,
        )
    )
    objects = []
    for part in (assembly, finder):
        made = part.with_suffix(".o")
        subprocess.run(["cc", "-O2", "-fPIC", "-c", "-o", made, part], check=True)
        objects.append(made)
    archive = target / f"lib{library}.a"
    archive.unlink(missing_ok=True)
    subprocess.run(["ar", "rcs", archive, *objects], check=True)
    print(f"{archive.name}: {len(names)} functions of {file}")


def main():
    cudarc, target = map(pathlib.Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        for library, (module, file, error) in LIBRARIES.items():
            make(library, module, file, error, cudarc, target, pathlib.Path(scratch))
        # candle-kernels asks for the runtime, whose callers deploy/cuda/nvcc leaves out.
        subprocess.run(["ar", "rcs", target / "libcudart.a"], check=True)


main()
