# From the firmware's 32-bit entry to `boot_start` in long mode.
#
# PVH (qemu -kernel) and multiboot2 (GRUB) arrive in the same state: 32-bit protected mode, flat segments, no paging,
# interrupts off; EBX points to their description of the machine, EAX tells multiboot2 from everything else.

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18                      # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad entry32

    .section .multiboot2, "a"
    .balign 8
multiboot2_header:
    .long 0xe85250d6, 0                 # magic, i386 protected mode
    .long multiboot2_end - multiboot2_header
    .long -(0xe85250d6 + (multiboot2_end - multiboot2_header))
    .short 6, 0                         # modules on page boundaries
    .long 8
    .short 0, 0                         # end of tags
    .long 8
multiboot2_end:

    .section .text.entry, "ax"
    .code32
    .globl entry32
entry32:
    cli
    cld
    mov ebp, eax
    # A warm reset leaves old bytes in memory that no file covers.
    mov edi, offset __bss_start
    mov ecx, offset __bss_end
    sub ecx, edi
    shr ecx, 2
    xor eax, eax
    rep stosd

    # The first 4 GiB one to one with 2 MiB pages; paging.rs replaces this soon.
    mov eax, offset early_p3 + 3
    mov dword ptr [early_p4], eax
    mov eax, offset early_p2 + 3
    mov edi, offset early_p3
    mov ecx, 4
1:  mov dword ptr [edi], eax
    add eax, 0x1000
    add edi, 8
    loop 1b
    mov eax, 0x83
    mov edi, offset early_p2
    mov ecx, 2048
2:  mov dword ptr [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 2b

    mov eax, cr4
    or eax, 0x620                       # PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset early_p4
    mov cr3, eax
    mov ecx, 0xc0000080                 # EFER
    rdmsr
    or eax, 0x900                       # LME, NXE
    wrmsr
    mov eax, cr0
    and eax, 0xfffffff3                 # not EM, TS
    or eax, 0x80010023                  # PG, WP, NE, MP, PE
    mov cr0, eax

    mov esp, offset stack_main_top
    lgdt [early_gdt_pointer]
    push 8
    mov eax, offset entry64
    push eax
    retf

    .code64
    .globl entry64
    .type entry64, @function
entry64:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset stack_main_top
    mov r12d, ebx
    mov r13d, ebp

    # AVX and AVX-512 state where present.
    mov eax, 1
    cpuid
    bt ecx, 26                          # XSAVE
    jnc 3f
    mov rax, cr4
    or eax, 0x40000                     # OSXSAVE
    mov cr4, rax
    mov eax, 0xd
    xor ecx, ecx
    cpuid
    and eax, 0xe7                       # x87, SSE, AVX, AVX-512
    mov r14d, eax
    xor edx, edx
    xor ecx, ecx
    xsetbv
    mov eax, 1
    cpuid
    bt ecx, 28                          # AVX
    jnc 3f
    bt r14d, 2                          # and its state
    jnc 3f
    mov byte ptr [rip + image_wide], 1
3:
    mov edi, r13d
    mov esi, r12d
    xor ebp, ebp
    call boot_start
4:  cli
    hlt
    jmp 4b
    .size entry64, . - entry64

    .section .rodata.early, "a"
    .balign 8
early_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 64-bit code
    .quad 0x00cf93000000ffff            # data
early_gdt_pointer:
    .short 23
    .quad early_gdt

    .section .bss.early, "aw", @nobits
    .balign 4096
early_p4: .skip 4096
early_p3: .skip 4096
early_p2: .skip 4 * 4096

# Every stack lies above a page that is never mapped (stacks.rs lists them).
    .macro stack name, size
    .globl stack_\name\()_guard, stack_\name\()_top
stack_\name\()_guard: .skip 4096
    .skip \size
stack_\name\()_top:
    .endm

    .section .stacks, "aw", @nobits
    .balign 4096
    stack main, 0x40000
    stack trap, 0x8000
    stack interrupt, 0x2000
    stack nmi, 0x8000
    stack double_fault, 0x8000
    stack machine_check, 0x8000

# Where the table of symbols begins; it is put here after linking (see the symbols crate).
    .section .symbols, "a"
    .balign 16
    .globl __symbols
__symbols:
    .quad 0, 0
