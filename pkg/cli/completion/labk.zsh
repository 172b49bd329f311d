#compdef labk
# zsh completion of labk: eval "$(labk completion zsh)" after compinit, in ~/.zshrc for good
_labk() {
	local line name
	local -a found
	for line in "${(@f)$("$words[1]" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
		[[ -z $line || $line == :* ]] && continue # kubectl's last line is a number
		name=${${line%%$'\t'*}//:/\\:}
		if [[ $line == *$'\t'* ]]; then
			found+=("$name:${line#*$'\t'}")
		else
			found+=("$name")
		fi
	done
	if (( $#found )); then
		_describe labk found
	else
		_files
	fi
}
if [[ $funcstack[1] == _labk ]]; then
	_labk "$@"
else
	compdef _labk labk
fi
