/* One build for every x86-64: a function marked LCU_CLONES is compiled for several levels of the architecture,
   and the loader picks the one for the processor at hand. All give the same bits. */

#ifndef LCU_CLONES_H
#define LCU_CLONES_H

#if !(defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__))
#define LCU_CLONES
#elif __GNUC__ >= 12
#define LCU_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "sse4.1", "default")))
#else /* an architecture by name is only taken on processors of its maker */
#define LCU_CLONES __attribute__((target_clones("arch=skylake-avx512", "avx2", "sse4.1", "default")))
#endif

/* What is inlined is compiled for the processor of its caller. */
#define LCU_INLINE static inline __attribute__((always_inline))

#endif
