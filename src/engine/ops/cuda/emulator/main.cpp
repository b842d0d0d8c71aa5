// Runs kernels for the tests: takes launches on standard input, gives the buffers back on standard
// output.
//
// A launch: the kernel's name (length first), blocks, threads, the number of arguments; each argument
// as its kind and its bytes: 0 a buffer (8 bytes of length first), 1 four bytes of a number, 2 a null
// pointer. All numbers are little-endian, of four bytes where nothing else is said.
// The answer: 0 and all buffers in their order, or the length of a message and the message.

#include "../kernels.cu"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

Index threadIdx, blockIdx, blockDim;

namespace {

const std::size_t STACK = 256 * 1024;

struct Fibre {
    ucontext_t context;
    jmp_buf place;
    std::vector<char> stack = std::vector<char>(STACK);
    bool started = false;
    bool done = false;
};

std::vector<Fibre *> fibres;
jmp_buf scheduler;
Fibre *current;
const std::function<void()> *kernel;

void body() {
    (*kernel)();
    current->done = true;
    _longjmp(scheduler, 1);
}

// Lets a fibre run up to its next barrier or its end. Only its first step takes a whole context;
// a jump costs a hundredth of one, for it asks nothing of the system.
void step(Fibre &fibre) {
    current = &fibre;
    if (_setjmp(scheduler) != 0) return;
    if (fibre.started) _longjmp(fibre.place, 1);
    fibre.started = true;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.data();
    fibre.context.uc_stack.ss_size = fibre.stack.size();
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, body, 0);
    setcontext(&fibre.context);
}

// Runs a block; false where some threads end while others wait at a barrier.
bool run_block(unsigned threads, bool backwards) {
    for (unsigned index = 0; index < threads; index++) {
        fibres[index]->started = fibres[index]->done = false;
    }
    for (;;) {
        unsigned done = 0;
        for (unsigned turn = 0; turn < threads; turn++) {
            unsigned index = backwards ? threads - 1 - turn : turn;
            threadIdx.x = index;
            step(*fibres[index]);
            done += fibres[index]->done;
        }
        if (done == threads) return true;
        if (done != 0) return false;
    }
}

// Around every buffer lies what no kernel may write, and what spoils every sum that it is read into.
const std::size_t GUARD = 64;
const char SPOILT = (char)0xff;

struct Argument {
    unsigned kind = 0;
    std::vector<char> bytes;
};

// An argument as the kernel's parameter.
template <typename P> struct Parameter {
    static P of(Argument &argument) {
        P value;
        std::memcpy(&value, argument.bytes.data(), sizeof value);
        return value;
    }
    static bool fits(const Argument &argument) { return argument.kind == 1; }
};
template <typename T> struct Parameter<T *> {
    static T *of(Argument &argument) {
        return argument.kind == 2 ? nullptr : (T *)(argument.bytes.data() + GUARD);
    }
    static bool fits(const Argument &argument) {
        return argument.kind == 2 || (argument.kind == 0 && (argument.bytes.size() - 2 * GUARD) % sizeof(T) == 0);
    }
};

using Arguments = std::vector<Argument>;
using Call = std::function<std::function<void()>(Arguments &)>;

template <typename... P, std::size_t... I>
std::function<void()> bound_to(void (*function)(P...), Arguments &arguments, std::index_sequence<I...>) {
    bool fit = arguments.size() == sizeof...(P);
    if (fit) fit = (Parameter<P>::fits(arguments[I]) && ...);
    if (!fit) return {};
    return [=, &arguments] { function(Parameter<P>::of(arguments[I])...); };
}

template <typename... P> Call call(void (*function)(P...)) {
    return [=](Arguments &arguments) {
        return bound_to(function, arguments, std::index_sequence_for<P...>());
    };
}

const std::map<std::string, Call> kernels = {
#define ENTRY(name) {#name, call(name)},
// Written by the tests, from kernels.cu.
#include "entries.h"
};

void read(void *target, std::size_t length) {
    if (std::fread(target, 1, length, stdin) != length) std::exit(0);
}

unsigned read_number() {
    std::uint32_t number;
    read(&number, sizeof number);
    return number;
}

// Why the launch is wrong; empty where it is not.
std::string launch(const std::string &name, unsigned blocks, unsigned threads, Arguments &arguments,
                   bool backwards) {
    auto found = kernels.find(name);
    if (found == kernels.end()) return "no kernel of this name: " + name;
    if (threads == 0 || threads > MOST_THREADS || (threads & (threads - 1)) != 0) {
        return name + ": threads are no power of two up to the most";
    }
    std::function<void()> bound = found->second(arguments);
    if (!bound) return name + ": the arguments are not those of the kernel";
    while (fibres.size() < threads) fibres.push_back(new Fibre);
    kernel = &bound;
    blockDim.x = threads;
    for (unsigned block = 0; block < blocks; block++) {
        blockIdx.x = backwards ? blocks - 1 - block : block;
        if (!run_block(threads, backwards)) return name + ": a barrier that some threads pass by";
    }
    return "";
}

bool is_sound(const Argument &argument) {
    if (argument.kind != 0) return true;
    const std::vector<char> &bytes = argument.bytes;
    for (std::size_t index = 0; index < GUARD; index++) {
        if (bytes[index] != SPOILT || bytes[bytes.size() - 1 - index] != SPOILT) return false;
    }
    return true;
}

} // namespace

void __syncthreads() {
    if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

int main() {
    for (;;) {
        std::string name(read_number(), ' ');
        read(name.data(), name.size());
        unsigned blocks = read_number(), threads = read_number();
        Arguments arguments(read_number());
        for (Argument &argument : arguments) {
            argument.kind = read_number();
            std::uint64_t length = argument.kind == 1 ? 4 : 0;
            if (argument.kind == 0) read(&length, sizeof length);
            std::size_t guard = argument.kind == 0 ? GUARD : 0;
            argument.bytes.assign(length + 2 * guard, SPOILT);
            read(argument.bytes.data() + guard, length);
        }
        Arguments again = arguments;
        std::string problem = launch(name, blocks, threads, arguments, false);
        if (problem.empty()) problem = launch(name, blocks, threads, again, true);
        for (std::size_t index = 0; problem.empty() && index < arguments.size(); index++) {
            if (arguments[index].bytes != again[index].bytes) {
                problem = name + ": the result depends on the order of threads";
            } else if (!is_sound(arguments[index])) {
                problem = name + ": writes beyond a buffer";
            }
        }
        std::uint32_t length = (std::uint32_t)problem.size();
        std::fwrite(&length, sizeof length, 1, stdout);
        std::fwrite(problem.data(), 1, problem.size(), stdout);
        if (problem.empty()) {
            for (const Argument &argument : arguments) {
                if (argument.kind == 0) {
                    std::size_t length = argument.bytes.size() - 2 * GUARD;
                    std::fwrite(argument.bytes.data() + GUARD, 1, length, stdout);
                }
            }
        }
        std::fflush(stdout);
    }
}
