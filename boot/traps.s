# Entry points of exceptions (vectors 0 to 31) and interrupts (32 to 255), 16 bytes each.

    .section .text.traps, "ax"

# An exception never returns: it becomes a report. The stubs make all frames look alike.
    .balign 16
exception_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    # Vectors 8, 10 to 14, 17, 21, 29 and 30 bring an error code.
    .if ((0x60227d00 >> vector) & 1) == 0
    .byte 0x6a, 0                       # push 0
    .endif
    .byte 0x6a, vector                  # push vector
    jmp exception_entry
    .set vector, vector + 1
    .endr

    .balign 16
    .type exception_entry, @function
exception_entry:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    and rsp, -16
    cld
    call {exception}
    ud2
    .size exception_entry, . - exception_entry

# An interrupt is counted and acknowledged, nothing else: whoever waits looks at the counts after `hlt`.
    .balign 16
interrupt_stubs:
    .rept 224
    .balign 16
    .byte 0x68                          # push vector (as 32 bits)
    .long vector
    jmp interrupt_entry
    .set vector, vector + 1
    .endr

    .balign 16
interrupt_entry:
    push rax
    push rcx
    push rdx
    mov rax, [rsp + 24]
    lea rcx, [rip + {counts}]
    inc qword ptr [rcx + rax * 8]
    mov rax, [rip + {end_of_interrupt}]
    test rax, rax
    jz 1f
    mov dword ptr [rax], 0              # xAPIC: a register in memory
    jmp 2f
1:  mov ecx, 0x80b                      # x2APIC: a model-specific register
    xor eax, eax
    xor edx, edx
    wrmsr
2:  pop rdx
    pop rcx
    pop rax
    add rsp, 8
    iretq
