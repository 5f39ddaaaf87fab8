# The memory functions that compiled code calls and that no library supplies here.
#
# Copies go by 64 bytes through SSE registers: `rep movsb` is many times slower under an emulator. Long ones go through AVX
# registers where `image_wide` says that there are any. What lies at the far end is loaded before the loop and stored after
# it, so overlapping ranges work and no byte loop is needed.

    .section .data.mem, "aw"

    .globl image_wide
    .type image_wide, @object
image_wide:
    .byte 0
    .size image_wide, 1

    .section .text.mem, "ax"

    .globl image_memcpy, image_memmove
    .type image_memcpy, @function
    .type image_memmove, @function
    .balign 16
image_memcpy:
image_memmove:
    mov rax, rdi
    cmp rdx, 16
    jb 5f
    cmp rdx, 32
    ja 1f
    movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
1:  cmp rdx, 64
    ja 2f
    movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + rdx - 32]
    movups xmm3, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + rdx - 32], xmm2
    movups [rdi + rdx - 16], xmm3
    ret

2:  mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jb 4f                               # the target begins inside the source: backwards
    cmp rdx, 256
    jb 2f
    cmp byte ptr [rip + image_wide], 0
    jne image_copy_wide
2:  movups xmm4, [rsi + rdx - 64]
    movups xmm5, [rsi + rdx - 48]
    movups xmm6, [rsi + rdx - 32]
    movups xmm7, [rsi + rdx - 16]
    lea r8, [rdi + rdx - 64]
3:  movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + 32]
    movups xmm3, [rsi + 48]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    add rsi, 64
    add rdi, 64
    cmp rdi, r8
    jb 3b
    movups [r8], xmm4
    movups [r8 + 16], xmm5
    movups [r8 + 32], xmm6
    movups [r8 + 48], xmm7
    ret

4:  movups xmm4, [rsi]
    movups xmm5, [rsi + 16]
    movups xmm6, [rsi + 32]
    movups xmm7, [rsi + 48]
    mov r8, rdi
    lea rsi, [rsi + rdx - 64]
    lea rdi, [rdi + rdx - 64]
3:  movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + 32]
    movups xmm3, [rsi + 48]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    sub rsi, 64
    sub rdi, 64
    cmp rdi, r8
    ja 3b
    movups [r8], xmm4
    movups [r8 + 16], xmm5
    movups [r8 + 32], xmm6
    movups [r8 + 48], xmm7
    ret

5:  cmp edx, 8
    jb 6f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
6:  cmp edx, 4
    jb 7f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
7:  test edx, edx
    jz 8f
    movzx ecx, byte ptr [rsi]
    cmp edx, 2
    jb 9f
    movzx r8d, word ptr [rsi + rdx - 2]
    mov [rdi + rdx - 2], r8w
9:  mov [rdi], cl
8:  ret

# The same with AVX, 256 bytes a round: half the instructions.
image_copy_wide:
    lea r8, [rsi + rdx - 256]
    vmovups ymm8, [r8]
    vmovups ymm9, [r8 + 32]
    vmovups ymm10, [r8 + 64]
    vmovups ymm11, [r8 + 96]
    vmovups ymm12, [r8 + 128]
    vmovups ymm13, [r8 + 160]
    vmovups ymm14, [r8 + 192]
    vmovups ymm15, [r8 + 224]
    lea r8, [rdi + rdx - 256]
1: vmovups ymm0, [rsi]
    vmovups ymm1, [rsi + 32]
    vmovups ymm2, [rsi + 64]
    vmovups ymm3, [rsi + 96]
    vmovups ymm4, [rsi + 128]
    vmovups ymm5, [rsi + 160]
    vmovups ymm6, [rsi + 192]
    vmovups ymm7, [rsi + 224]
    vmovups [rdi], ymm0
    vmovups [rdi + 32], ymm1
    vmovups [rdi + 64], ymm2
    vmovups [rdi + 96], ymm3
    vmovups [rdi + 128], ymm4
    vmovups [rdi + 160], ymm5
    vmovups [rdi + 192], ymm6
    vmovups [rdi + 224], ymm7
    add rsi, 256
    add rdi, 256
    cmp rdi, r8
    jb 1b
    vmovups [r8], ymm8
    vmovups [r8 + 32], ymm9
    vmovups [r8 + 64], ymm10
    vmovups [r8 + 96], ymm11
    vmovups [r8 + 128], ymm12
    vmovups [r8 + 160], ymm13
    vmovups [r8 + 192], ymm14
    vmovups [r8 + 224], ymm15
    vzeroupper
    ret
    .size image_memcpy, . - image_memcpy
    .size image_memmove, . - image_memmove

    .globl image_memset
    .type image_memset, @function
    .balign 16
image_memset:
    mov rax, rdi
    movzx esi, sil
    mov rcx, 0x0101010101010101
    imul rsi, rcx
    cmp rdx, 16
    jb 3f
    movq xmm0, rsi
    punpcklqdq xmm0, xmm0
    lea r8, [rdi + rdx - 16]            # the last 16 bytes, stored at the end
    lea rcx, [rdi + rdx - 64]
    cmp rdx, 64
    jb 2f
    cmp rdx, 256
    jb 1f
    cmp byte ptr [rip + image_wide], 0
    jne 8f
1:  cmp rdi, rcx
    ja 2f
    movups [rdi], xmm0
    movups [rdi + 16], xmm0
    movups [rdi + 32], xmm0
    movups [rdi + 48], xmm0
    add rdi, 64
    jmp 1b
2:  cmp rdi, r8
    jae 4f
    movups [rdi], xmm0
    add rdi, 16
    jmp 2b
4:  movups [r8], xmm0
    ret
3:  cmp edx, 8
    jb 5f
    mov [rdi], rsi
    mov [rdi + rdx - 8], rsi
    ret
5:  test edx, edx
    jz 7f
6:  mov [rdi], sil
    inc rdi
    dec edx
    jnz 6b
7:  ret

8:  vinsertf128 ymm0, ymm0, xmm0, 1
    lea r8, [rdi + rdx - 256]           # the last 256 bytes, stored at the end
1:  vmovups [rdi], ymm0
    vmovups [rdi + 32], ymm0
    vmovups [rdi + 64], ymm0
    vmovups [rdi + 96], ymm0
    vmovups [rdi + 128], ymm0
    vmovups [rdi + 160], ymm0
    vmovups [rdi + 192], ymm0
    vmovups [rdi + 224], ymm0
    add rdi, 256
    cmp rdi, r8
    jb 1b
    vmovups [r8], ymm0
    vmovups [r8 + 32], ymm0
    vmovups [r8 + 64], ymm0
    vmovups [r8 + 96], ymm0
    vmovups [r8 + 128], ymm0
    vmovups [r8 + 160], ymm0
    vmovups [r8 + 192], ymm0
    vmovups [r8 + 224], ymm0
    vzeroupper
    ret
    .size image_memset, . - image_memset

    .globl image_memcmp, image_bcmp
    .type image_memcmp, @function
    .type image_bcmp, @function
    .balign 16
image_memcmp:
image_bcmp:
1:  cmp rdx, 8
    jb 2f
    mov rax, [rdi]
    mov rcx, [rsi]
    add rdi, 8
    add rsi, 8
    sub rdx, 8
    cmp rax, rcx
    je 1b
    bswap rax
    bswap rcx
    cmp rax, rcx
    sbb eax, eax
    or eax, 1
    ret
2:  test edx, edx
    jz 3f
    movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    inc rdi
    inc rsi
    dec edx
    sub eax, ecx
    je 2b
    ret
3:  xor eax, eax
    ret
    .size image_memcmp, . - image_memcmp
    .size image_bcmp, . - image_bcmp

    .globl image_strlen
    .type image_strlen, @function
    .balign 16
image_strlen:
    lea rax, [rdi - 1]
1:  inc rax
    cmp byte ptr [rax], 0
    jne 1b
    sub rax, rdi
    ret
    .size image_strlen, . - image_strlen
